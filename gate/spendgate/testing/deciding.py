"""The script `decide`, in Python."""

from __future__ import annotations

from typing import Any

import msgspec

from spendgate.decide import Mode, Verdict, decide
from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent
from spendgate.limits import Counters
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, Result
from spendgate.reservation import MAX_OPEN, Facts, OpenEntry
from spendgate.state import DENIALS_KEPT, Standing
from spendgate.testing.memory import MemoryRedis, Refused, recall, refused, validate
from spendgate.testing.reserving import end_overdue
from spendgate.testing.stored import Customer, Remembered

_OUTCOMES = {"allow": 1, "throttle": 2, "stop": 3}


def play_decide(
    redis: MemoryRedis,
    _tag: bytes,
    customer_id: bytes,
    event_raw: bytes,
    mode_raw: bytes,
    dry: bytes,
    identity: bytes,
    fingerprint: bytes,
    asked: bytes,
) -> Any:
    now_us, mode, dry_run, asked_us = redis.clock(), mode_raw.decode(), dry == b"1", int(asked)
    event = msgspec.msgpack.decode(event_raw, type=UsageEvent)
    customer = redis.look_up(customer_id.decode())
    policy, digest = redis.policy_in_force(customer)
    validate(event.quantities, policy, 1)
    remembered = None if dry_run else recall(customer.seen, redis.generation, identity)
    if remembered is not None:
        return _repeat_answer(redis, customer, event, mode, identity, fingerprint, remembered)
    if not dry_run:
        redis.check_backlog(customer)
    if mode == "reserve" and asked_us > policy.reservations.max_lifetime_us:
        raise Refused("lifetime_too_long", policy.reservations.max_lifetime_us)
    held = customer.open.get(event.event_id) if mode == "reserve" and not dry_run else None
    if held is not None:
        known = Remembered(held.event.fingerprint(reserved=True), held.stream_id, held.effective_at_us)
        return _repeat_answer(redis, customer, event, mode, identity, fingerprint, known)
    if not dry_run:
        end_overdue(redis, customer)
    counters = customer.find_counters(policy, event, now_us, now_us)
    verdict = _verdict(redis, customer, policy, counters, event, mode, asked_us)
    facts = _facts(customer, policy, now_us, asked_us) if mode == "reserve" and verdict.outcome == "allow" else None
    result = Result(
        verdict.outcome,
        verdict.reason,
        verdict.limit_id or "",
        verdict.override_id or "",
        verdict.standing.state,
        verdict.crossed,
        1,
    )
    record = redis.record(customer, policy, digest, counters, "decision", mode, result, event, facts)
    outcome = _OUTCOMES[verdict.outcome]
    if dry_run:
        return [b"dry_run", b"", outcome, digest.encode(), msgspec.msgpack.encode(record)]
    redis.customers[customer.id] = customer
    status, stream_id, standing = _append(redis, customer, record, verdict)
    standing = redis.flush_denials(customer, policy, digest, counters, standing)
    customer.keep_counters(policy, event, now_us, now_us, verdict.counters)
    customer.standing_stored = standing
    if verdict.outcome == "allow":
        customer.seen[redis.generation, identity] = Remembered(fingerprint, stream_id, now_us)
    if facts is not None:
        customer.open[event.event_id] = OpenEntry(stream_id, now_us, facts.deadline_us, digest, event)
        customer.ends[event.event_id] = facts.deadline_us + policy.reservations.grace_us
    return [status, stream_id.encode(), outcome, digest.encode(), msgspec.msgpack.encode(record)]


def _facts(customer: Customer, policy: EffectivePolicy, now_us: int, asked_us: int) -> Facts:
    if len(customer.open) >= MAX_OPEN:
        raise Refused("reservations_full", MAX_OPEN)
    return Facts("open", now_us, now_us + (asked_us or policy.reservations.lifetime_us), "")


def _verdict(
    redis: MemoryRedis,
    customer: Customer,
    policy: EffectivePolicy,
    counters: Counters,
    event: UsageEvent,
    mode: Mode | str,
    asked_us: int,
) -> Verdict:
    try:
        return decide(
            policy,
            customer.state,
            counters,
            customer.override_set.overrides if customer.override_set is not None else (),
            event,
            redis.clock(),
            standing=customer.standing,
            mode=mode,  # type: ignore[arg-type]
            mirrored_at_us=redis.mirrored_at_us,
            lifetime_us=asked_us,
        )
    except InvalidEvent as exc:
        raise refused(exc) from exc


def _append(redis: MemoryRedis, customer: Customer, record: Record, verdict: Verdict) -> tuple[bytes, str, Standing]:
    """The record, unless it is a denial that is only counted: status, stream id, and the standing with its count."""
    standing = verdict.standing
    if verdict.outcome == "allow":
        return b"decided", redis.append(customer, record), standing
    rule, second = f"{verdict.reason}|{verdict.limit_id or ''}", redis.clock() // 1_000_000
    counted = {(name, at): index for index, (name, at, *_) in enumerate(standing.denials)}
    index = counted.get((rule, second), len(standing.denials))
    _, _, count, stream_id, _ = (*standing.denials, (rule, second, 0, "", ""))[index]
    status = b"coalesced" if count >= DENIALS_KEPT else b"decided"
    if status == b"decided":
        stream_id = redis.append(customer, record)
    denials = list(standing.denials)
    denials[index : index + 1] = [(rule, second, count + 1, stream_id, verdict.outcome)]
    return status, stream_id, msgspec.structs.replace(standing, denials=tuple(denials))


def _repeat_answer(
    redis: MemoryRedis,
    customer: Customer,
    event: UsageEvent,
    mode: str,
    identity: bytes,
    fingerprint: bytes,
    remembered: Remembered,
) -> Any:
    if remembered.fingerprint != fingerprint:
        raise Refused("conflict")
    if not remembered.repeated:
        customer.seen[redis.generation, identity] = msgspec.structs.replace(remembered, repeated=True)
    facts = None
    if mode == "reserve":
        held, ended = customer.open.get(event.event_id), recall(customer.ended, redis.generation, identity)
        if held is not None:
            facts = Facts("open", held.effective_at_us, held.deadline_us, held.stream_id)
        elif ended is not None:
            facts = ended.facts
    policy, digest = redis.policy_in_force(customer)
    counters = customer.find_counters(policy, event, redis.clock(), redis.clock(), as_stored=True)
    reason = "recorded" if mode == "record" else "allowed"
    result = Result("allow", reason, "", "", customer.standing.state, (), 1)
    record = redis.record(customer, policy, digest, counters, "decision", mode, result, event, facts)
    encoded, at_us = msgspec.msgpack.encode(record), str(remembered.at_us).encode()
    return [b"duplicate", remembered.stream_id.encode(), 1, digest.encode(), encoded, at_us]
