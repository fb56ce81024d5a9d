"""The mirror's scripts and the sweep, in Python."""

from __future__ import annotations

from typing import Any

import msgspec

from spendgate.decide import context_of
from spendgate.errors import InvalidEvent
from spendgate.keys import partition_of, tag_of
from spendgate.limits import Credits, PeriodCounter, Quota, WalletCounter, counter_field, speaks_of_all
from spendgate.limits.counter import checked_sum
from spendgate.policy import EffectivePolicy
from spendgate.record import Result
from spendgate.state import OverrideSet, PolicyState
from spendgate.testing.memory import MemoryRedis, Refused, refused
from spendgate.testing.reserving import end_overdue
from spendgate.testing.stored import Customer


def play_snapshot(redis: MemoryRedis, _tag: bytes, customer_id: bytes) -> Any:
    customer = redis.look_up(customer_id.decode())
    policy, digest = redis.policy_in_force(customer)
    counters = customer.find_counters(policy, None, redis.clock(), redis.clock())
    result = Result("allow", "snapshot", "", "", customer.standing.state, (), 1)
    record = redis.record(customer, policy, digest, counters, "snapshot", "decide", result)
    return [b"snapshot", b"", 1, digest.encode(), msgspec.msgpack.encode(record)]


def play_put_state(
    redis: MemoryRedis,
    _tag: bytes,
    customer_id: bytes,
    state_raw: bytes,
    digest: bytes,
    policy_raw: bytes,
    _rules: bytes,
    _kept_seconds: bytes,
) -> Any:
    """Everything is kept for good here."""
    written, customer = PolicyState.decode(state_raw), redis.look_up(customer_id.decode())
    current = customer.state
    if current == written:
        return 1
    if current is not None and written.order < current.order:
        return 0
    if written.status == "unknown" and redis.default is None:
        raise Refused("no_policy")
    redis.policies[digest.decode()] = policy_raw
    customer = redis.customer(customer.id)
    customer.state = written
    redis.restand(customer, changed=True)
    return 1


def play_put_overrides(redis: MemoryRedis, _tag: bytes, customer_id: bytes, raw: bytes, version: bytes) -> Any:
    customer = redis.look_up(customer_id.decode())
    if customer.override_set is not None and customer.override_set.version >= int(version):
        return 0
    redis.policy_in_force(customer)
    customer = redis.customer(customer.id)
    customer.override_set = msgspec.msgpack.decode(raw, type=OverrideSet)
    redis.restand(customer, changed=True)
    return 1


def play_put_external(
    redis: MemoryRedis,
    _tag: bytes,
    customer_id: bytes,
    limit_id: bytes,
    start: bytes,
    amount: bytes,
    requested: bytes,
) -> Any:
    customer = redis.customer(customer_id.decode())
    policy = redis.policy_in_force(customer)[0]
    for limit in policy.limits:
        if limit.id == limit_id.decode() and isinstance(limit, Quota | Credits) and speaks_of_all(limit):
            try:
                return int(_put_external(redis, customer, policy, limit, int(start), int(amount), int(requested)))
            except InvalidEvent as exc:
                raise refused(exc) from exc
    return 0


def _put_external(
    redis: MemoryRedis,
    customer: Customer,
    policy: EffectivePolicy,
    limit: Quota | Credits,
    start: int,
    amount: int,
    requested_us: int,
) -> bool:
    now_us, field = redis.clock(), counter_field(limit)
    found: Any = customer.find(limit, now_us)
    crossed: tuple[str, ...] = ()
    after: PeriodCounter | WalletCounter
    if isinstance(limit, Quota):
        counter, period = limit.counter_at(found, now_us)
        if period is None or period[0] != start or counter.external_at_us >= requested_us:
            return False
        checked_sum(counter.used + counter.reserved, amount, limit.id)
        after, crossed = limit.crossed(msgspec.structs.replace(counter, external=amount, external_at_us=requested_us))
    else:
        wallet = found or WalletCounter()
        if wallet.external_at_us >= requested_us:
            return False
        checked_sum(wallet.used + wallet.reserved, amount, limit.id)
        read = msgspec.structs.replace(wallet, external=amount, external_at_us=requested_us)
        after = limit.read_external(read, context_of(customer.state, now_us))
    if crossed:
        pairs = tuple((limit.id, name) for name in crossed)
        result = Result("allow", "external", limit.id, "", customer.standing.state, pairs, 1)
        digest = redis.policy_in_force(customer)[1]
        counters = customer.find_counters(policy, None, now_us, now_us, as_stored=True)
        redis.append(customer, redis.record(customer, policy, digest, counters, "standing", "decide", result))
    customer.keep(field, after)
    redis.restand(customer)
    return True


def play_refresh(redis: MemoryRedis, _tag: bytes, customer_id: bytes, tell: bytes) -> Any:
    redis.restand(redis.customer(customer_id.decode()), changed=tell == b"1")
    return 1


def play_sweep(redis: MemoryRedis, tag: bytes, most: bytes, _window: bytes) -> Any:
    """Memory is kept for good here: `MemoryRedis.generation` moves only when a test says so."""
    now_us = redis.clock()
    due = sorted(
        (due_us, customer.id)
        for customer in redis.customers.values()
        if tag_of(partition_of(customer.id)) == tag.decode() and 0 < (due_us := customer.standing.due_at_us) <= now_us
    )[: int(most)]
    for _, customer_id in due:
        end_overdue(redis, redis.customers[customer_id])
        redis.restand(redis.customers[customer_id])
    for customer in redis.customers.values():
        customer.drop_expired(now_us // 1_000_000)
    return len(due)
