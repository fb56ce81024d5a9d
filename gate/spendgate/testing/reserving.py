"""The scripts about reservations, in Python."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from spendgate.errors import AboveReserved, InvalidEvent
from spendgate.event import UsageEvent
from spendgate.policy import EffectivePolicy
from spendgate.record import Result
from spendgate.reservation import Facts, OpenEntry, ReservationStatus, committed_quantities, finish
from spendgate.testing.memory import MemoryRedis, Refused, recall, refused, validate
from spendgate.testing.stored import Customer, Ended

_OVERDUE_MAX: Final = 100
_ENDED: Final[dict[str, ReservationStatus]] = {"commit": "committed", "release": "released", "expire": "expired"}


def end_overdue(redis: MemoryRedis, customer: Customer) -> None:
    now_us, first = redis.clock(), customer.standing.reservations_end_us
    if first == 0 or first > now_us:
        return
    due = sorted((end_us, event_id) for event_id, end_us in customer.ends.items() if end_us <= now_us)
    for _, event_id in due[:_OVERDUE_MAX]:
        held = customer.open[event_id]
        commits = redis.policy_of(customer, held.digest)[0].reservations.at_deadline == "commit"
        actual = dict(held.event.quantities) if commits else {}
        try:
            _end(redis, customer, held, "expire", "expired_committed" if commits else "expired", actual)
        except Refused:
            _end(redis, customer, held, "expire", "expired", {})
    redis.restand(customer, ends_us=min(customer.ends.values(), default=0))


def _end(
    redis: MemoryRedis, customer: Customer, held: OpenEntry, mode: str, reason: str, actual: dict[str, int]
) -> tuple[str, Facts]:
    """End a reservation; with a deadline of 0 it is one that Redis has lost. The end's id and facts."""
    policy, digest = redis.policy_of(customer, held.digest)
    committed = actual if mode == "expire" else _committed(policy, held, actual)
    freed = held.event.quantities if held.deadline_us else {}
    touched = msgspec.structs.replace(held.event, quantities={**committed, **freed})
    counters = customer.find_counters(policy, touched, held.effective_at_us, redis.clock(), late=True)
    try:
        finished = finish(
            policy,
            customer.state,
            counters,
            held.event,
            committed,
            held.effective_at_us,
            redis.clock(),
            held=held.deadline_us != 0,
        )
    except InvalidEvent as exc:
        raise refused(exc) from exc
    facts = Facts(
        _ENDED[mode],
        held.effective_at_us,
        held.deadline_us,
        held.stream_id,
        tuple(sorted(committed.items())),
        tuple(sorted(actual.items())),
    )
    result = Result("allow", reason, "", "", customer.standing.state, finished.crossed, 1)
    record = redis.record(customer, policy, digest, counters, "finish", mode, result, held.event, facts)
    stream_id = redis.append(customer, record)
    customer.keep_counters(policy, held.event, held.effective_at_us, redis.clock(), finished.counters)
    customer.open.pop(held.event.event_id, None)
    customer.ends.pop(held.event.event_id, None)
    customer.ended[redis.generation, held.event.identity()] = Ended(stream_id, reason, facts)
    return stream_id, facts


def _committed(policy: EffectivePolicy, held: OpenEntry, actual: dict[str, int]) -> dict[str, int]:
    try:
        return committed_quantities(policy.reservations, held.event.quantities, actual)
    except AboveReserved as exc:
        raise Refused("above_reserved", exc.meter) from exc


def play_finish_reservation(
    redis: MemoryRedis,
    _tag: bytes,
    customer_id: bytes,
    action_raw: bytes,
    event_raw: bytes,
    stream: bytes,
    effective: bytes,
    identity: bytes,
    actual_raw: bytes,
    by: bytes,
) -> Any:
    action, stream_id = action_raw.decode(), stream.decode()
    event = msgspec.msgpack.decode(event_raw, type=UsageEvent)
    actual = msgspec.msgpack.decode(actual_raw, type=dict[str, int])
    customer = redis.look_up(customer_id.decode())
    policy, digest = redis.policy_in_force(customer)
    validate(actual, policy, 0)
    end_overdue(redis, customer)
    held = customer.open.get(event.event_id)
    ended = recall(customer.ended, redis.generation, identity) if held is None else None
    known = held.stream_id if held is not None else ended.facts.stream_id if ended is not None else None
    if known is not None and known != stream_id and not stream_id.startswith("0-"):
        raise Refused("reservation_unknown")
    if ended is not None:
        return _repeat_answer(redis, ended, action, actual)
    if action == "extend":
        if held is None:
            raise Refused("reservation_unknown")
        return _extend(redis, customer, held, int(by))
    if held is None and int(stream_id.partition("-")[0]) >= redis.epoch:
        raise Refused("reservation_unknown")
    redis.customers[customer.id] = customer
    reservation = held or OpenEntry(stream_id, int(effective), 0, digest, event)
    reason = _ENDED[action]
    ended_id, facts = _end(redis, customer, reservation, action, reason, actual)
    redis.restand(customer, ends_us=min(customer.ends.values(), default=0))
    return _answer(redis, b"ended", ended_id, reason, facts)


def _repeat_answer(redis: MemoryRedis, ended: Ended, action: str, actual: dict[str, int]) -> Any:
    facts = ended.facts
    same = action == "commit" and facts.status == "committed" and facts.actual == tuple(sorted(actual.items()))
    if not same and not (action == "release" and facts.status == "released"):
        raise Refused("reservation_finished", ended.reason)
    return _answer(redis, b"duplicate", ended.stream_id, ended.reason, facts)


def _extend(redis: MemoryRedis, customer: Customer, held: OpenEntry, by_us: int) -> Any:
    terms, now_us = redis.policy_of(customer, held.digest)[0].reservations, redis.clock()
    latest_us = held.effective_at_us + terms.max_lifetime_us
    if now_us + by_us > latest_us:
        raise Refused("extension_too_long", latest_us)
    held = msgspec.structs.replace(held, deadline_us=max(held.deadline_us, now_us + by_us))
    customer.open[held.event.event_id] = held
    policy, digest = redis.policy_in_force(customer)
    counters = customer.find_counters(policy, None, now_us, now_us, as_stored=True)
    result = Result("allow", "extended", "", "", customer.standing.state, (), 1)
    facts = Facts("open", held.effective_at_us, held.deadline_us, held.stream_id)
    record = redis.record(customer, policy, digest, counters, "finish", "extend", result, held.event, facts)
    stream_id = redis.append(customer, record)
    customer.ends[held.event.event_id] = held.deadline_us + terms.grace_us
    redis.restand(customer, ends_us=min(customer.ends.values()))
    return _answer(redis, b"extended", stream_id, "extended", facts)


def _answer(redis: MemoryRedis, status: bytes, stream_id: str, reason: str, facts: Facts) -> list[Any]:
    return [status, stream_id.encode(), msgspec.msgpack.encode((reason, facts)), str(redis.clock()).encode()]


def play_reserved(redis: MemoryRedis, _tag: bytes, customer_id: bytes, most: bytes) -> Any:
    customer = redis.look_up(customer_id.decode())
    found: list[Any] = [str(redis.clock()).encode(), len(customer.ends)]
    ends = sorted((end_us, event_id) for event_id, end_us in customer.ends.items())
    for end_us, event_id in ends[: int(most)]:
        held = customer.open[event_id]
        found += [held.encode(), str(end_us).encode()]
    return found
