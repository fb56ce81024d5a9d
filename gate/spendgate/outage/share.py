"""What one process may let pass by itself: the customer's own limits, each cut down to this process' share.

The limits are the policy's own kinds (`alone`), and so is the decision: an outage has no rules of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from spendgate.decide import Mode, Verdict, decide
from spendgate.event import UsageEvent
from spendgate.limits import (
    NOT_KEPT,
    Counter,
    Counters,
    Limit,
    PeriodCounter,
    Quota,
    RateCounter,
    counter_field,
    counter_of_field,
)
from spendgate.limits.check import Context, Ending, applies, text_of
from spendgate.outage.entries import KeptCounter
from spendgate.outage.slot import Slot
from spendgate.overshoot import allowances_of
from spendgate.policy import EffectivePolicy
from spendgate.record import Record

RETRY_US: Final = 1_000_000
NOT_FOR: Final = frozenset({"stopped", "suspended"})
"""Customers last known so get nothing."""


class Judgement(msgspec.Struct, frozen=True):
    """`counters` are this process' own after a debit. `overshoot_bound` is, per limit of the event, the most units that
    all processes together can let pass beyond it."""

    verdict: Verdict
    counters: Counters
    overshoot_bound: dict[str, int]


class Shares:
    """This process' own counters, by customer and counter field, then by the value of the limit's `per`."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str], dict[str, Counter]] = {}

    def find(self, policy: EffectivePolicy, event: UsageEvent) -> Counters:
        found: Counters = {}
        for limit in policy.limits:
            values = self._counters.get((event.customer_id, counter_field(limit)), {})
            value = _value_of(limit, event)
            if value in values:
                found[counter_field(limit)] = values[value]
            elif limit.per is not None and len(values) >= limit.max_values:
                found[counter_field(limit)] = NOT_KEPT
        return found

    def keep(self, policy: EffectivePolicy, event: UsageEvent, counters: Counters) -> tuple[KeptCounter, ...]:
        """Take over `counters` of an event; what of them outlives this process."""
        kept = []
        for limit in policy.limits:
            field, value = counter_field(limit), _value_of(limit, event)
            if field in counters:
                self._put(event.customer_id, field, value, counters[field])
                if not isinstance(counters[field], RateCounter):
                    kept.append((event.customer_id, field, value, counters[field].encode()))
        return tuple(kept)

    def restore(self, kept: Iterable[KeptCounter]) -> None:
        for customer_id, field, value, raw in kept:
            self._put(customer_id, field, value, counter_of_field(field, raw))

    def kept(self) -> tuple[KeptCounter, ...]:
        """All that must outlive this process; nothing when the share is whole."""
        return tuple(
            (customer_id, field, value, counter.encode())
            for (customer_id, field), values in self._counters.items()
            for value, counter in values.items()
            if not isinstance(counter, RateCounter)
        )

    def _put(self, customer_id: str, field: str, value: str, counter: Counter) -> None:
        values = self._counters.setdefault((customer_id, field), {})
        values[value] = counter
        if _is_nothing(counter):
            del values[value]
            if not values:
                del self._counters[customer_id, field]


def judge(
    known: Record,
    policy: EffectivePolicy,
    event: UsageEvent,
    mode: Mode,
    now_us: int,
    shares: Shares,
    slot: Slot | None,
    lifetime_us: int = 0,
) -> Judgement:
    """One event by what was last `known` of its customer. What was denied then is denied for the same reason; what would
    fit must also fit the share. Raises InvalidEvent and UnknownMeter."""
    last = {
        counter_field(limit): counter
        for limit, counter in (
            (each, known.counters_by_limit(policy).get(counter_field(each))) for each in policy.limits
        )
        if limit.per is None and counter is not None and counter != NOT_KEPT
    }
    verdict = decide(
        policy,
        known.state,
        last,
        known.overrides,
        event,
        now_us,
        standing=known.standing,
        mode=mode,
        lifetime_us=lifetime_us,
    )
    slots = slot.count if slot is not None else 0
    bound = _overshoot_bound(policy, event, slots)
    if mode == "record" or verdict.outcome != "allow":
        return Judgement(verdict, {}, bound)
    stranger = known.state is None or known.state.status == "unknown"
    if slot is None or slot.index == 0 or stranger or known.result.state_after in NOT_FOR:
        return Judgement(_waiting(verdict, None), {}, bound)
    own = decide(
        _alone(policy, slots),
        msgspec.structs.replace(known.state, granted_micro_credits=None, grants=()) if known.state else None,
        shares.find(policy, event),
        (),
        event,
        now_us,
        mode=mode,
        lifetime_us=lifetime_us,
    )
    if own.outcome != "allow":
        return Judgement(_waiting(verdict, own.limit_id), {}, bound)
    for limit, line in zip(policy.limits, own.limits, strict=True):
        begins_at_us = (line.period_start_seconds or 0) * 1_000_000
        if limit.id in bound and line.amount and not slot.covers(begins_at_us):
            return Judgement(_waiting(verdict, limit.id), {}, bound)
    passed = msgspec.structs.replace(verdict, reason="allowed_in_outage", limit_id=None, override_id=None)
    return Judgement(passed, own.counters, bound)


def taken_back(
    policy: EffectivePolicy, event: UsageEvent, counters: Counters, effective_at_us: int, *, used: dict[str, int] | None
) -> Counters:
    """The counters that change when a debit of `event` comes back to the share. `used` None: it was a debit; otherwise
    it was a reservation, of which this was used."""
    context = Context(effective_at_us, None)
    if used is None:
        held, quantities = None, {meter: -units for meter, units in event.quantities.items()}
    else:
        held, quantities = event, used
    ending = Ending(held, msgspec.structs.replace(event, quantities=quantities), effective_at_us, context)
    after: Counters = {}
    for limit in policy.limits:
        counter = counters.get(counter_field(limit))
        if (
            counter is None
            or counter == NOT_KEPT
            or not applies(limit.match, event)
            or isinstance(counter, RateCounter)
        ):
            continue
        if isinstance(limit, Quota) and not _counts_then(limit, counter, effective_at_us):
            continue
        after[counter_field(limit)] = limit.finish(counter, ending)[0]
    return after


def _counts_then(limit: Quota, counter: PeriodCounter, effective_at_us: int) -> bool:
    period = limit.window.period_at(effective_at_us)
    return period is not None and counter.period_start_seconds == period[0]


def _waiting(verdict: Verdict, limit_id: str | None) -> Verdict:
    return msgspec.structs.replace(
        verdict,
        outcome="throttle",
        reason="outage",
        limit_id=limit_id,
        override_id=None,
        retry_after_us=RETRY_US,
        counters={},
        crossed=(),
    )


def _overshoot_bound(policy: EffectivePolicy, event: UsageEvent, slots: int) -> dict[str, int]:
    return {
        limit_id: slots * (allowance // slots) if slots else 0
        for limit_id, allowance in allowances_of(policy, event).items()
    }


def _alone(policy: EffectivePolicy, slots: int) -> EffectivePolicy:
    return msgspec.structs.replace(policy, limits=tuple(limit.alone(slots) for limit in policy.limits))


def _value_of(limit: Limit, event: UsageEvent) -> str:
    return "" if limit.per is None else text_of(event.metadata.get(limit.per)) or ""


def _is_nothing(counter: Counter) -> bool:
    return not any(getattr(counter, name, 0) for name in ("used", "reserved", "open", "debt"))
