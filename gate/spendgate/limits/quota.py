"""`quota`: units used in a period, with thresholds and three ways to end.

Overage is compiled into `hard_cap`: equal to `cap` for `block`, None for `bill`, `cap + n` for `bill_up_to`.
Periods reset lazily: a counter of another period counts as zero, so nothing has to run at the boundary.
"""

from __future__ import annotations

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits.check import Check, Context, Exhaustion, amount_of, checked_sum
from spendgate.limits.result import Denial, LimitResult, Mode
from spendgate.window import Window

POLICY_STALE_RETRY_US = 60_000_000
"""How long to wait when the table of boundaries is exhausted and only a new policy helps."""


class Threshold(msgspec.Struct, frozen=True):
    """Crossed, once per period, when the use reaches `at` units. `name` is `80%`, or `overage` for cap + 1."""

    name: str
    at: int


class QuotaCounter(msgspec.Struct, frozen=True, array_like=True):
    """As stored. `external` was read from UsageBox at `external_at_us`; `fired` are the thresholds crossed."""

    period_start_seconds: int = 0
    used: int = 0
    external: int = 0
    external_at_us: int = 0
    fired: tuple[str, ...] = ()


class Quota(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="quota"):
    """`cap` units of `meters` per period. `hard_cap` None never denies; `period` is the document's word for it."""

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

    def counter_at(self, stored: object, now_us: int) -> tuple[QuotaCounter, tuple[int, int] | None]:
        """The counter of the period that contains `now_us`, and that period."""
        period = self.window.period_at(now_us)
        counter = msgspec.convert(stored, QuotaCounter) if stored is not None else QuotaCounter()
        if period is not None and counter.period_start_seconds != period[0]:
            counter = QuotaCounter(period_start_seconds=period[0])
        return counter, period

    def check(self, event: UsageEvent, stored: object, context: Context) -> Check:
        counter, period = self.counter_at(stored, context.now_us)
        amount = amount_of(event, self.meters)
        effective = counter.used + counter.external
        remaining = None if self.hard_cap is None else max(0, self.hard_cap - effective)
        line = LimitResult(
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
            external=counter.external,
            limit=self.hard_cap,
            cap=self.cap,
            floor=self.floor,
            remaining=remaining,
        )
        if not amount:
            return Check(line)
        if period is None:
            stale = msgspec.structs.replace(
                line, result="deny", when_exceeded="throttle", retry_after_us=POLICY_STALE_RETRY_US
            )
            return Check(stale, reason="policy_stale")
        after = msgspec.structs.replace(counter, used=checked_sum(counter.used, amount, self.id))
        checked_sum(effective, amount, self.id)
        crossed = tuple(
            threshold.name
            for threshold in self.thresholds
            if effective + amount >= threshold.at and threshold.name not in counter.fired
        )
        after = msgspec.structs.replace(after, fired=counter.fired + crossed)
        if self.hard_cap is None or effective + amount <= self.hard_cap:
            overage = max(0, min(amount, effective + amount - self.cap))
            return Check(msgspec.structs.replace(line, result="pass", overage=overage), after, crossed)
        denied = msgspec.structs.replace(line, result="deny", retry_after_us=period[1] * 1_000_000 - context.now_us)
        return Check(denied, after, crossed, "quota_exceeded")

    def exhaustion(self, stored: object, context: Context) -> Exhaustion | None:
        if self.hard_cap is None:
            return None
        counter, period = self.counter_at(stored, context.now_us)
        if period is None or self.hard_cap - counter.used - counter.external > self.floor:
            return None
        return Exhaustion(period[1] * 1_000_000)
