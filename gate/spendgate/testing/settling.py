"""The script `settle`, in Python."""

from __future__ import annotations

from typing import Any

import msgspec

from spendgate.decide import check_limit, context_of
from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent
from spendgate.limits import counter_field
from spendgate.policy import EffectivePolicy
from spendgate.record import Result
from spendgate.reservation import Facts, finish
from spendgate.testing.memory import MemoryRedis, recall, refused
from spendgate.testing.stored import Customer, Remembered

_OF_ALLOWANCE = frozenset({"quota_exceeded", "credits_exceeded"})


def play_settle(
    redis: MemoryRedis,
    tag: bytes,
    customer_id: bytes,
    event_raw: bytes,
    identity: bytes,
    fingerprint: bytes,
    effective: bytes,
    digest_raw: bytes,
    journal: bytes,
    sequence: bytes,
) -> Any:
    customer, mark = redis.look_up(customer_id.decode()), (tag.decode(), journal)
    policy, _ = redis.policy_in_force(customer)

    def answer(status: bytes, stream_id: str, *, room: bool = False) -> Any:
        return [status, stream_id.encode(), customer.standing.state.encode(), int(room)]

    if redis.settled.get(mark, 0) >= int(sequence):
        return answer(b"settled", "")
    remembered = recall(customer.seen, redis.generation, identity)
    if remembered is not None:
        redis.settled[mark] = int(sequence)
        return answer(b"known" if remembered.fingerprint == fingerprint else b"conflict", remembered.stream_id)
    redis.check_backlog(customer)
    event = msgspec.msgpack.decode(event_raw, type=UsageEvent)
    room = _has_room(redis, customer, policy, event)
    redis.customers[customer.id] = customer
    stream_id = _debit(redis, customer, event, int(effective), digest_raw.decode())
    customer.seen[redis.generation, identity] = Remembered(fingerprint, stream_id, int(effective))
    redis.settled[mark] = int(sequence)
    redis.restand(customer, ends_us=min(customer.ends.values(), default=0))
    return answer(b"debited", stream_id, room=room)


def _has_room(redis: MemoryRedis, customer: Customer, policy: EffectivePolicy, event: UsageEvent) -> bool:
    context = context_of(customer.state, redis.clock())
    found = customer.find_counters(policy, event, redis.clock(), redis.clock())
    try:
        checks = [check_limit(limit, event, found.get(counter_field(limit)), context) for limit in policy.limits]
    except InvalidEvent:
        return False
    return not any(check.result.denies and check.reason in _OF_ALLOWANCE for check in checks)


def _debit(redis: MemoryRedis, customer: Customer, event: UsageEvent, effective_at_us: int, digest: str) -> str:
    policy, digest = redis.policy_of(customer, digest)
    counters = customer.find_counters(policy, event, effective_at_us, redis.clock(), late=True)
    try:
        finished = finish(
            policy,
            customer.state,
            counters,
            event,
            event.quantities,
            effective_at_us,
            redis.clock(),
            held=False,
        )
    except InvalidEvent as exc:
        raise refused(exc) from exc
    debited = tuple(sorted(event.quantities.items()))
    facts = Facts("settled", effective_at_us, 0, "", debited, debited)
    result = Result("allow", "settled", "", "", customer.standing.state, finished.crossed, 1)
    record = redis.record(customer, policy, digest, counters, "finish", "settle", result, event, facts)
    stream_id = redis.append(customer, record)
    customer.keep_counters(policy, event, effective_at_us, redis.clock(), finished.counters)
    return stream_id


def play_hold_slot(redis: MemoryRedis, journal: bytes, hold: bytes, alone: bytes, leave: bytes) -> Any:
    """Slots are kept as (until, after) by index and journal."""
    now_us, leaves = redis.clock(), leave == b"1"
    nothing = [0, redis.outage_slots, b"0", b"0", str(now_us).encode()]
    mine = next((index for index, slot in redis.slots.items() if slot[0] == journal), None)
    if leaves:
        redis.slots.pop(mine or 0, None)
        return nothing
    index, after_us = mine, redis.slots[mine][2] if mine is not None else 0
    if index is None:
        index = next((each for each in range(1, redis.outage_slots + 1) if each not in redis.slots), None)
    if index is None:
        abandoned = [(slot[1], each) for each, slot in redis.slots.items() if slot[1] < now_us - int(alone)]
        if not abandoned:
            return nothing
        until_us, index = min(abandoned)
        after_us = max(redis.slots[index][2], until_us)
    until_us = now_us + int(hold)
    redis.slots[index] = (journal, until_us, after_us)
    return [index, redis.outage_slots, str(until_us).encode(), str(after_us).encode(), str(now_us).encode()]
