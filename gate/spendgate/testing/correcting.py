"""The script `correct`, in Python."""

from __future__ import annotations

from typing import Any

import msgspec

from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent
from spendgate.record import Result
from spendgate.reservation import Facts, finish
from spendgate.testing.memory import MemoryRedis, refused
from spendgate.testing.stored import Customer


def play_correct(
    redis: MemoryRedis,
    _tag: bytes,
    customer_id: bytes,
    event_raw: bytes,
    digest: bytes,
    facts_raw: bytes,
    epoch: bytes,
    sequence: bytes,
) -> Any:
    customer = redis.look_up(customer_id.decode())
    redis.policy_in_force(customer)
    facts = msgspec.msgpack.decode(facts_raw, type=Facts)
    correction_id = facts.correction.id if facts.correction is not None else ""
    if customer.last_correction is not None:
        last_id, stream_id = customer.last_correction
        if last_id == correction_id:
            return _done(redis, customer, b"repeated", stream_id)
        if _place_of(stream_id) > (int(epoch), int(sequence)):
            return [b"behind", stream_id.encode()]
    redis.check_backlog(customer)
    redis.customers[customer.id] = customer
    event = msgspec.msgpack.decode(event_raw, type=UsageEvent)
    stream_id = _correct(redis, customer, event, digest.decode(), facts)
    customer.last_correction = (correction_id, stream_id)
    redis.restand(customer, ends_us=min(customer.ends.values(), default=0))
    return _done(redis, customer, b"corrected", stream_id)


def _correct(redis: MemoryRedis, customer: Customer, event: UsageEvent, digest: str, facts: Facts) -> str:
    policy, digest = redis.policy_of(customer, digest)
    at_us, now_us, committed = facts.effective_at_us, redis.clock(), dict(facts.committed)
    concerned = msgspec.structs.replace(event, quantities=dict.fromkeys(committed, 1))
    counters = customer.find_counters(policy, concerned, at_us, now_us, late=True)
    try:
        finished = finish(policy, customer.state, counters, event, committed, at_us, now_us, held=False, corrects=True)
    except InvalidEvent as exc:
        raise refused(exc) from exc
    result = Result("allow", "corrected", "", "", customer.standing.state, finished.crossed, 1)
    record = redis.record(customer, policy, digest, counters, "finish", "correct", result, event, facts)
    stream_id = redis.append(customer, record)
    customer.keep_counters(policy, event, at_us, now_us, finished.counters)
    return stream_id


def _done(redis: MemoryRedis, customer: Customer, status: bytes, stream_id: str) -> Any:
    raw = redis.entry(customer, stream_id)
    if raw is None:
        return [b"behind", stream_id.encode()]
    return [status, stream_id.encode(), raw]


def _place_of(stream_id: str) -> tuple[int, ...]:
    return tuple(map(int, stream_id.split("-")))
