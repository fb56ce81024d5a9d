"""Books kept from the outbox alone: what each limit should have counted, and whether each decision was right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from interleavings.menu import DAILY, HOURLY, SECOND_US
from spendgate.event import UsageEvent
from spendgate.limits import Concurrency, Credits, Limit, PerEvent, Quota, Rate
from spendgate.policy import EffectivePolicy
from spendgate.record import Record
from spendgate.state import Override, PolicyState

Place = tuple[str, str, int]
"""Limit id, value of its `per`, start of the period."""


REMEMBERED_GENERATIONS: Final = 2
"""The memory of events that are at least as old as the last two generations."""


class Broken(AssertionError):
    """An invariant does not hold."""


class Terms(msgspec.Struct):
    """What the operator has said so far; `external` by limit and period. `spare` bounds what grants that expire ever came
    to: how they are burnt is the equivalence test's matter."""

    state: PolicyState | None = None
    spare: int = 0
    overrides: Sequence[Override] = ()
    external: dict[tuple[str, int], int] = msgspec.field(default_factory=dict)
    generations: int = 1

    def forget(self) -> None:
        self.generations += 1

    def agree(self, state: PolicyState) -> None:
        self.state = state
        self.spare += sum(grant.micro_credits for grant in state.grants)

    def override(self, overrides: Sequence[Override]) -> None:
        self.overrides = overrides

    def read_external(self, limit_id: str, amount: int, at_us: int) -> None:
        self.external[limit_id, period_of(limit_id, at_us)] = amount


class Held(msgspec.Struct):
    """An open reservation: what it holds, by place, and what is needed to judge its end."""

    stream_id: str
    event: UsageEvent
    effective_at_us: int
    policy: EffectivePolicy
    amounts: dict[Place, int]


class Books:
    """`allowed` maps event ids to the entries that allowed them, `ended` to those that ended their reservation: one,
    unless events are no longer remembered."""

    def __init__(self) -> None:
        self.terms = Terms()
        self.allowed: dict[str, list[str]] = defaultdict(list)
        self.ended: dict[str, list[str]] = defaultdict(list)
        self.open: dict[str, Held] = {}
        self.debts: dict[str, tuple[int, int]] = {}
        self._used: dict[Place, int] = defaultdict(int)
        self._passed: dict[str, int] = defaultdict(int)
        self._crossed: dict[tuple[str, int], set[str]] = defaultdict(set)

    def totals(self, limit_id: str, value: str, period: int) -> tuple[int, int]:
        """What was debited there, and what is held."""
        place = (limit_id, value, period)
        return self._used.get(place, 0), sum(held.amounts.get(place, 0) for held in self.open.values())

    def touched(self) -> Iterable[Place]:
        return tuple(self._used)

    # Decisions -------------------------------------------------------------------------------------------------------

    def decide(self, stream_id: str, record: Record, policy: EffectivePolicy) -> None:
        event = record.event
        assert event is not None
        state = self.terms.state
        require(state is not None and state.policy == record.policy, "decided by a policy that is not in force")
        if record.result.outcome != "allow":
            self._check_denial(record, event, policy)
            return
        forgotten = self.terms.generations > REMEMBERED_GENERATIONS and event.event_id not in self.open
        require(forgotten or event.event_id not in self.allowed, f"{event.event_id} was allowed twice")
        self.allowed[event.event_id].append(stream_id)
        if record.mode != "record":
            self._check_allowed(record, event, policy)
        self._debit(stream_id, record, event, policy)

    def _check_allowed(self, record: Record, event: UsageEvent, policy: EffectivePolicy) -> None:
        state, now_us, result = self.terms.state, record.now_us, record.result
        require(state is not None and state.status == "active", f"{event.event_id} was allowed to a suspended customer")
        active = {override.id: override for override in self.terms.overrides if override.until_us > now_us}
        require(not any(each.kind == "stop" for each in active.values()), "allowed in spite of a stop")
        over = [limit for limit in policy.limits if limit.mode == "enforce" and not self.fits(limit, event, record)]
        if result.reason == "allowed":
            names = [limit.id for limit in over]
            require(not over, f"{event.event_id} did not fit {names} and was allowed")
            return
        passing = active.get(result.override_id)
        require(result.reason == "allowed_by_override" and passing is not None, f"allowed by {result}")
        assert passing is not None
        self._passed[passing.id] += event.units
        require(
            self._passed[passing.id] <= passing.max_units, f"{passing.id} let {self._passed[passing.id]} units pass"
        )
        uncovered = [limit.id for limit in over if "*" not in passing.bypass and limit.id not in passing.bypass]
        require(not uncovered, f"{passing.id} does not cover {uncovered}")
        require(bool(over or self.terms.spare), f"{passing.id} was used up by what fits")

    def _check_denial(self, record: Record, event: UsageEvent, policy: EffectivePolicy) -> None:
        limit = next((limit for limit in policy.limits if limit.id == record.result.limit_id), None)
        if limit is not None:
            require(limit.mode == "enforce", f"{limit.id} denied in its shadow mode")
            if isinstance(limit, Credits) and self.terms.spare:
                return
            require(not self.fits(limit, event, record), f"{event.event_id} fits {limit.id}, which denied it")

    def fits(self, limit: Limit, event: UsageEvent, record: Record) -> bool:
        """Whether the limit has room, by the books."""
        amount = amount_of(limit, event)
        if not amount:
            return True
        if isinstance(limit, PerEvent):
            return amount <= limit.max
        if isinstance(limit, Rate):
            return amount <= limit.burst and self._melted(limit, record.now_us) + amount * limit.per_us <= limit.ceiling
        if isinstance(limit, Concurrency) and record.mode != "reserve":
            return True
        place = place_of(limit, event, record.now_us)
        if limit.per is not None and self._is_one_too_many(limit, place):
            return False
        used, held = self.totals(*place)
        if isinstance(limit, Concurrency):
            return held < limit.max
        taken = used + held + amount + self._external(limit, place)
        if isinstance(limit, Credits):
            return taken <= self._granted(limit) + self.terms.spare
        return limit.hard_cap is None or taken <= limit.hard_cap

    def _external(self, limit: Limit, place: Place) -> int:
        return self.terms.external.get((limit.id, place[2]), 0) if limit.per is None else 0

    def _is_one_too_many(self, limit: Limit, place: Place) -> bool:
        limit_id, value, period = place
        if isinstance(limit, Concurrency):
            values = {key[1] for held in self.open.values() for key in held.amounts if key[0] == limit_id}
        else:
            values = {key[1] for key in self._used if (key[0], key[2]) == (limit_id, period)}
        return value not in values and len(values) >= limit.max_values

    def _granted(self, limit: Credits) -> int:
        state = self.terms.state
        assert state is not None
        if state.granted_micro_credits is None:
            return 0 if state.grants else limit.granted_when_unknown
        return state.granted_micro_credits

    # Debits ----------------------------------------------------------------------------------------------------------

    def _debit(self, stream_id: str, record: Record, event: UsageEvent, policy: EffectivePolicy) -> None:
        reserving = record.mode == "reserve"
        amounts: dict[Place, int] = {}
        for limit, raw in zip(policy.limits, record.counters, strict=True):
            amount = amount_of(limit, event)
            if (
                not amount
                or raw == b""
                or isinstance(limit, PerEvent)
                or (isinstance(limit, Concurrency) and not reserving)
            ):
                continue
            if isinstance(limit, Rate):
                self._owe(limit, amount, record.now_us)
                continue
            place = place_of(limit, event, record.now_us)
            self._used[place] += 0 if reserving else amount
            amounts[place] = amount
        if reserving:
            self.open[event.event_id] = Held(stream_id, event, record.now_us, policy, amounts)

    def _melted(self, limit: Rate, now_us: int) -> int:
        updated_us, debt = self.debts.get(limit.id, (now_us, 0))
        return max(0, min(debt, limit.ceiling) - limit.units * max(0, now_us - updated_us))

    def _owe(self, limit: Rate, amount: int, now_us: int) -> None:
        debt = min(limit.ceiling, max(0, self._melted(limit, now_us) + amount * limit.per_us))
        self.debts[limit.id] = (max(now_us, self.debts.get(limit.id, (0, 0))[0]), debt)

    def finish(self, stream_id: str, record: Record, policy: EffectivePolicy) -> None:
        event, facts = record.event, record.reservation
        assert event is not None
        assert facts is not None
        held = self.open.get(event.event_id)
        require(held is not None, f"{event.event_id} ended, and was not open")
        assert held is not None
        require(
            (facts.stream_id, facts.effective_at_us) == (held.stream_id, held.effective_at_us), "another reservation"
        )
        if record.mode == "extend":
            latest_us = held.effective_at_us + held.policy.reservations.max_lifetime_us
            require(facts.deadline_us <= latest_us, f"{event.event_id} was extended beyond what the plan allows")
            return
        require(policy.digest == held.policy.digest, f"{event.event_id} ended under other terms than it began")
        del self.open[event.event_id]
        self.ended[event.event_id].append(stream_id)
        self._check_committed(record, held)
        committed = UsageEvent(dict(facts.committed), event.metadata, event.customer_id, event.event_id)
        for limit, raw in zip(policy.limits, record.counters, strict=True):
            amount = amount_of(limit, committed)
            if isinstance(limit, Rate):
                more = amount - amount_of(limit, event)
                if more:
                    self._owe(limit, more, record.now_us)
            elif amount and not isinstance(limit, PerEvent | Concurrency):
                self._debit_late(limit, raw, place_of(limit, event, held.effective_at_us), amount)

    def _debit_late(self, limit: Limit, raw: bytes | None, place: Place, amount: int) -> None:
        if raw != b"":
            self._used[place] += amount
            return
        if limit.per is not None:
            require(self._is_one_too_many(limit, place), f"{place} was forgotten")
            return
        later = {period for limit_id, _, period in self._used if limit_id == limit.id and period > place[2]}
        require(len(later) >= 2, f"{limit.id} forgot the period {place[2]}, which is one of the last two")

    def _check_committed(self, record: Record, held: Held) -> None:
        facts, terms = record.reservation, held.policy.reservations
        assert facts is not None
        reserved, committed, actual = held.event.quantities, dict(facts.committed), dict(facts.actual)
        if record.mode == "expire":
            due_us = facts.deadline_us + terms.grace_us
            require(record.now_us >= due_us, f"{held.event.event_id} expired {due_us - record.now_us} µs early")
            expected = reserved if terms.at_deadline == "commit" else {}
        elif record.mode == "release":
            expected = {}
        elif terms.above == "overage":
            expected = {meter: quantity for meter, quantity in actual.items() if quantity}
        else:
            above = any(quantity > reserved.get(meter, 0) for meter, quantity in actual.items())
            require(terms.above == "cap" or not above, f"{held.event.event_id} went above what the plan rejects")
            capped = {meter: min(quantity, reserved.get(meter, 0)) for meter, quantity in actual.items()}
            expected = {meter: quantity for meter, quantity in capped.items() if quantity}
        require(committed == expected, f"{held.event.event_id}: committed {committed}, expected {expected}")

    # Thresholds ------------------------------------------------------------------------------------------------------

    def cross(self, record: Record, policy: EffectivePolicy) -> None:
        """Each threshold fires once in its period."""
        facts = record.reservation
        at_us = facts.effective_at_us if record.kind == "finish" and facts is not None else record.now_us
        for limit_id, name in record.result.crossed:
            fired = self._crossed[limit_id, period_of(limit_id, at_us)]
            require(name not in fired, f"{name} of {limit_id} fired twice")
            fired.add(name)
        if record.result.outcome == "allow" and record.kind in ("decision", "finish") and record.event is not None:
            self._check_fired(record, record.event, policy, at_us)

    def _check_fired(self, record: Record, event: UsageEvent, policy: EffectivePolicy, at_us: int) -> None:
        """And none is left out: those of a limit that this event has just debited."""
        if record.mode in ("reserve", "extend"):
            return
        facts = record.reservation
        debited = event.quantities if facts is None else dict(facts.committed)
        for limit, raw in zip(policy.limits, record.counters, strict=True):
            touches = any(meter in debited for meter in limit.meters) and amount_of(limit, event)
            if not isinstance(limit, Quota) or limit.per is not None or not touches or raw == b"":
                continue
            place = place_of(limit, event, at_us)
            use = self._used[place] + self._external(limit, place)
            due = {threshold.name for threshold in limit.thresholds if use >= threshold.at}
            missing = due - self._crossed[limit.id, place[2]]
            require(not missing, f"{missing} of {limit.id} did not fire at {use} units")


def require(holds: bool, message: str) -> None:  # noqa: FBT001  (reads as an assertion)
    if not holds:
        raise Broken(message)


def amount_of(limit: Limit, event: UsageEvent) -> int:
    """What the limit counts of an event: units, micro-credits, or one reservation."""
    for field, pattern in limit.match.items():
        if not str(event.metadata.get(field, "")).startswith(pattern.rstrip("*")):
            return 0
    if isinstance(limit, Credits):
        model = event.model or ""
        price = {"gpu": 7, "tokens": 5 if model.startswith("gpt-") else 3}
        return sum(price.get(meter, 0) * quantity for meter, quantity in event.quantities.items())
    units = sum(event.quantities.get(meter, 0) for meter in limit.meters)
    return min(units, 1) if isinstance(limit, Concurrency) else units


def place_of(limit: Limit, event: UsageEvent, at_us: int) -> Place:
    value = str(event.metadata.get(limit.per, "")) if limit.per is not None else ""
    return limit.id, value, period_of(limit.id, at_us) if isinstance(limit, Quota) else 0


def period_of(limit_id: str, at_us: int) -> int:
    """Start of the period of a limit of the menu; of one without periods, 0."""
    if limit_id.startswith("hour"):
        return at_us // SECOND_US // 3600 * 3600
    if not limit_id.startswith("day"):
        return 0
    boundaries = [int(DAILY.boundaries[at : at + 8], 16) for at in range(0, len(DAILY.boundaries), 8)]
    return max(boundary for boundary in boundaries if boundary * SECOND_US <= at_us)


__all__ = ["HOURLY", "Books", "Broken", "Terms"]
