"""The script `repair_reserved`, in Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from spendgate.held import Place, Repaired, reserved_of
from spendgate.limits import Counter, OpenCounter, PeriodCounter, Quota, RateCounter, WalletCounter, counter_field
from spendgate.policy import EffectivePolicy
from spendgate.record import Result
from spendgate.testing.memory import MemoryRedis
from spendgate.testing.stored import Customer

Difference = tuple[Repaired, Callable[[], object]]
"""What is told of it, and how it is put right."""


def play_repair_reserved(redis: MemoryRedis, _tag: bytes, customer_id: bytes, most: bytes, _most_values: bytes) -> Any:
    """Counters of values cost nobody's time here, so they are not bounded."""
    customer, now_us = redis.look_up(customer_id.decode()), redis.clock()
    policy, digest = redis.policy_in_force(customer)
    opened = len(customer.open)
    if opened > int(most):
        return [b"too_many", b"", opened, 0, 0]
    overdue = sum(held.deadline_us <= now_us for held in customer.open.values())
    differences = _differences(redis, customer, policy)
    if not differences:
        return [b"agrees", b"", opened, overdue, 0]
    told = [repaired for repaired, _ in differences]
    limit_id = next((each.limit_id for each in told if each.limit_id), "")
    result = Result("allow", "repaired", limit_id, "", customer.standing.state, (), 1)
    counters = customer.find_counters(policy, None, now_us, now_us, as_stored=True)
    record = redis.record(customer, policy, digest, counters, "repair", "decide", result)
    stream_id = redis.append(customer, msgspec.structs.replace(record, repaired=tuple(told)))
    for _, put_right in differences:
        put_right()
    redis.restand(customer, ends_us=min(customer.ends.values(), default=0))
    return [b"repaired", stream_id.encode(), opened, overdue, sum(bool(each.limit_id) for each in told)]


def _differences(redis: MemoryRedis, customer: Customer, policy: EffectivePolicy) -> list[Difference]:
    views = {held.digest: redis.policy_of(customer, held.digest)[0] for held in customer.open.values()}
    given = [(held.event, held.effective_at_us, views[held.digest]) for held in customer.open.values()]
    expected = reserved_of(given)
    whole = {place: units for place, units in expected.items() if place.value is None}
    found = _of_whole(customer, whole)
    hashes = {(place.field, place.period_start_seconds) for place in expected if place.value is not None}
    for limit in policy.limits:
        if limit.per is not None and limit.Counter not in (None, RateCounter):
            period = limit.window.period_at(redis.clock()) if isinstance(limit, Quota) else (0, 0)
            hashes |= {(counter_field(limit), period[0])} if period is not None else set()
    rooms = {counter_field(limit): limit.max_values for view in (*views.values(), policy) for limit in view.limits}
    for field, start in hashes:
        found += _of_values(customer, field, start, expected, rooms[field])
    found += _of_ends(redis, customer)
    return sorted(found, key=lambda pair: _order(pair[0]))


def _order(repaired: Repaired) -> tuple[str, str, str]:
    return f"{repaired.kind}:{repaired.limit_id}", f"{repaired.period_start_seconds:020}", repaired.value


def _of_whole(customer: Customer, expected: dict[Place, int]) -> list[Difference]:
    found: list[Difference] = []
    seen = set()
    kept: tuple[dict[str, Any], ...] = (customer.counters, customer.before)
    for counters in kept:
        for field, counter in counters.items():
            if isinstance(counter, RateCounter):
                continue
            place = Place(field, getattr(counter, "period_start_seconds", 0), None)
            seen.add(place)
            units = expected.get(place, 0)
            if counter.reserved != units:
                told = _told(place, counter.reserved, units)
                found.append((told, partial(counters.__setitem__, field, _holding(counter, units))))
    for field in {place.field for place in expected}:
        newest = max((place for place in expected if place.field == field), key=lambda p: p.period_start_seconds)
        current = customer.counters.get(field)
        opened = getattr(current, "period_start_seconds", 0) if current is not None else -1
        if newest not in seen and newest.period_start_seconds > opened:
            units = expected[newest]
            told = _told(newest, 0, units)
            found.append((told, partial(customer.keep, field, _new(newest, units))))
    return found


def _of_values(customer: Customer, field: str, start: int, expected: dict[Place, int], room: int) -> list[Difference]:
    wanted = {
        place.value or "": units
        for place, units in expected.items()
        if (place.field, place.period_start_seconds) == (field, start) and place.value is not None
    }
    stored = customer.per.get((field, start), {})
    found: list[Difference] = []
    for value, counter in stored.items():
        units = wanted.get(value, 0)
        if not isinstance(counter, RateCounter) and counter.reserved != units:
            told = _told(Place(field, start, value), counter.reserved, units)
            found.append((told, partial(_keep_value, customer, field, start, value, _holding(counter, units))))
    missing = [value for value in wanted if value not in stored]
    for value in missing[: max(0, room - len(stored))]:
        place = Place(field, start, value)
        kept = partial(_keep_value, customer, field, start, value, _new(place, wanted[value]))
        found.append((_told(place, 0, wanted[value]), kept))
    return found


def _keep_value(customer: Customer, field: str, start: int, value: str, counter: Counter) -> None:
    kept = customer.per.setdefault((field, start), {})
    kept[value] = counter
    if isinstance(counter, OpenCounter) and counter.open == 0:
        del kept[value]


def _of_ends(redis: MemoryRedis, customer: Customer) -> list[Difference]:
    found: list[Difference] = []
    ends = {}
    for event_id, held in customer.open.items():
        terms = redis.policy_of(customer, held.digest)[0].reservations
        ends[event_id] = held.deadline_us + terms.grace_us
    for event_id, ends_us in customer.ends.items():
        if event_id not in ends:
            told = Repaired("deadline", "", 0, event_id, ends_us, 0)
            found.append((told, partial(customer.ends.pop, event_id)))
    for event_id, ends_us in ends.items():
        if event_id not in customer.ends:
            told = Repaired("deadline", "", 0, event_id, 0, ends_us)
            found.append((told, partial(customer.ends.__setitem__, event_id, ends_us)))
    noted, first = customer.standing.reservations_end_us, min(ends.values(), default=0)
    if noted != first:
        found.append((Repaired("calendar", "", 0, "", noted, first), _nothing))
    return found


def _nothing() -> None:
    """The standing is recomputed after every repair, and the calendar with it."""


def _told(place: Place, before: int, after: int) -> Repaired:
    kind, _, limit_id = place.field.partition(":")
    return Repaired(kind, limit_id, place.period_start_seconds, place.value or "", before, after)


def _holding(counter: PeriodCounter | WalletCounter | OpenCounter, units: int) -> Counter:
    if isinstance(counter, OpenCounter):
        return OpenCounter(units)
    return msgspec.structs.replace(counter, reserved=units)


def _new(place: Place, units: int) -> Counter:
    if place.field.startswith("quota:"):
        return PeriodCounter(period_start_seconds=place.period_start_seconds, reserved=units)
    return WalletCounter(reserved=units) if place.field.startswith("credits:") else OpenCounter(units)
