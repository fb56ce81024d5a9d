"""`quota`: units used in a period, with thresholds and three ways to end.

Overage is compiled into `hard_cap`: equal to `cap` for `block`, None for `bill`, `cap + n` for `bill_up_to`.
Periods reset lazily: a counter of another period counts as zero, so nothing has to run at the boundary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits.check import STALE_RETRY_US, Check, Context, Ending, Exhaustion, amount_of
from spendgate.limits.counter import PeriodCounter, checked_sum
from spendgate.limits.result import Denial, LimitResult, Mode
from spendgate.window import Window


class Threshold(msgspec.Struct, frozen=True):
    """Crossed, once per period, when the use reaches `at` units. `name` is `80%`, or `overage` for cap + 1."""

    name: str
    at: int


class Quota(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="quota"):
    """`cap` units of `meters` per period. `hard_cap` None never denies; `period` is the document's word for it;
    `outage_allowance` units may pass per period while Redis or the mirror is away."""

    Counter: ClassVar = PeriodCounter

    id: str
    meters: tuple[str, ...]
    unit: str
    period: str
    window: Window
    cap: int
    hard_cap: int | None = None
    floor: int = 0
    thresholds: tuple[Threshold, ...] = ()
    when_exceeded: Denial = "stop"
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    per: str | None = None
    max_values: int = 0
    outage_allowance: int = 0

    def rule(self) -> list[Any]:
        """The kind's own part of what the script reads: see quota.lua."""
        hard_cap = self.hard_cap if self.hard_cap is not None else False
        thresholds = [part for threshold in self.thresholds for part in (threshold.at, threshold.name)]
        return [*self.window.rule(), hard_cap, self.floor, thresholds or False, self.outage_allowance]

    def alone(self, slots: int) -> Quota:
        """What one of `slots` processes may let pass of this limit by itself while Redis is away."""
        if self.hard_cap is None:
            return self
        share = self.outage_allowance // slots
        return msgspec.structs.replace(self, cap=share, hard_cap=share, floor=0, thresholds=())

    def counter_at(self, counter: PeriodCounter | None, at_us: int) -> tuple[PeriodCounter, tuple[int, int] | None]:
        """The counter of the period that contains `at_us`, and that period; None when the table is exhausted."""
        period = self.window.period_at(at_us)
        if period is None:
            return counter or PeriodCounter(), None
        if counter is None or counter.period_start_seconds != period[0]:
            counter = PeriodCounter(period_start_seconds=period[0])
        return counter, period

    def check(self, event: UsageEvent, counter: PeriodCounter | None, context: Context) -> Check:
        """`counter` None: nothing was used yet."""
        counter, period = self.counter_at(counter, context.now_us)
        amount = amount_of(event, self.meters)
        line = self._line(counter, period, amount)
        if not amount:
            return Check(line)
        waiting = msgspec.structs.replace(line, result="deny", when_exceeded="throttle", retry_after_us=STALE_RETRY_US)
        if period is None:
            return Check(waiting, reason="policy_stale")
        effective = counter.effective
        checked_sum(effective, amount, self.id)
        after, crossed = self._debited(counter, amount, context)
        stale_units = counter.stale_units(context.stale_mirror_us) + amount
        if context.stale_mirror_us:
            after = msgspec.structs.replace(after, stale_since_us=context.stale_mirror_us, stale_used=stale_units)
        if self.hard_cap is not None and effective + amount > self.hard_cap:
            retry_after_us = period[1] * 1_000_000 - context.now_us
            denied = msgspec.structs.replace(line, result="deny", retry_after_us=retry_after_us)
            return Check(denied, after, crossed, "quota_exceeded")
        if context.stale_mirror_us and stale_units > self.outage_allowance:
            return Check(waiting, after, crossed, "mirror_stale")
        overage = max(0, min(amount, effective + amount - self.cap))
        return Check(msgspec.structs.replace(line, result="pass", overage=overage), after, crossed)

    def _line(self, counter: PeriodCounter, period: tuple[int, int] | None, amount: int) -> LimitResult:
        return LimitResult(
            id=self.id,
            kind="quota",
            result="not_applicable",
            unit=self.unit,
            mode=self.mode,
            when_exceeded=self.when_exceeded,
            meters=self.meters,
            period=self.period,
            period_start_seconds=period and period[0],
            period_end_seconds=period and period[1],
            amount=amount,
            used=counter.used,
            reserved=counter.reserved,
            external=counter.external,
            limit=self.hard_cap,
            cap=self.cap,
            floor=self.floor,
            remaining=None if self.hard_cap is None else max(0, self.hard_cap - counter.effective),
        )

    def _debited(self, counter: PeriodCounter, amount: int, context: Context) -> tuple[PeriodCounter, tuple[str, ...]]:
        if context.reserving:
            return msgspec.structs.replace(counter, reserved=checked_sum(counter.reserved, amount, self.id)), ()
        return self.used(counter, amount)

    def used(self, counter: PeriodCounter, amount: int) -> tuple[PeriodCounter, tuple[str, ...]]:
        """The counter after `amount` more units, and the thresholds crossed. They speak of what was used: a reservation
        that is released again must not have warned anybody."""
        used = max(0, checked_sum(counter.used, amount, self.id))
        return self.crossed(msgspec.structs.replace(counter, used=used))

    def crossed(self, counter: PeriodCounter) -> tuple[PeriodCounter, tuple[str, ...]]:
        """Each threshold that the counter has reached fires once per period."""
        use = counter.used + counter.external
        names = tuple(each.name for each in self.thresholds if use >= each.at and each.name not in counter.fired)
        return (msgspec.structs.replace(counter, fired=counter.fired + names) if names else counter), names

    def finish(self, counter: PeriodCounter | None, ending: Ending) -> tuple[PeriodCounter | None, tuple[str, ...]]:
        """The counter of the period that `ending` names, afterwards, and the thresholds crossed. The same counter when
        that period is no longer kept: two periods ago nothing is enforced any more."""
        current, period = self.counter_at(counter, ending.effective_at_us)
        if period is None:
            return counter, ()
        held = amount_of(ending.held, self.meters) if ending.held is not None else 0
        freed = msgspec.structs.replace(current, reserved=max(0, current.reserved - held))
        return self.used(freed, amount_of(ending.committed, self.meters))

    def keeps(self, counter: PeriodCounter | None, at_us: int) -> bool:
        """Whether the counter still holds what was debited at `at_us`."""
        return counter is not None and self.counter_at(counter, at_us)[0] is counter

    def held(self, event: UsageEvent) -> int:
        """What a reservation of this event holds."""
        return amount_of(event, self.meters)

    def exhaustion(self, counter: PeriodCounter | None, context: Context) -> Exhaustion | None:
        """What is reserved does not count: it may be released."""
        if self.hard_cap is None:
            return None
        counter, period = self.counter_at(counter, context.now_us)
        if period is None or self.hard_cap - counter.used - counter.external > self.floor:
            return None
        return Exhaustion(period[1] * 1_000_000)

    def changes_at_us(self, context: Context) -> int:  # noqa: ARG002
        return 0
