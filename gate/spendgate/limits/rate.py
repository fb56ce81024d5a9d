"""`rate`: units per time, as GCRA (the virtual scheduling of ITU-T I.371) in whole numbers.

R units per P µs with a burst of B units: a debt in unit·µs that melts by R each µs and may not exceed B·P. No
division touches the state, so nothing drifts; a backward clock melts nothing.
"""

from __future__ import annotations

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits.check import Check, Context, Exhaustion, amount_of
from spendgate.limits.result import Denial, LimitResult, Mode


class RateCounter(msgspec.Struct, frozen=True, array_like=True):
    """As stored: the debt as of `updated_us`, in unit·µs."""

    updated_us: int = 0
    debt: int = 0


class Rate(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="rate"):
    """`units` per `per_us`, in lowest terms; `burst` units may come at once; `rate` is the document's wording.
    The compiler keeps `burst × per_us + units` at or below 9×10^15."""

    id: str
    meters: tuple[str, ...]
    unit: str
    rate: str
    units: int
    per_us: int
    burst: int
    when_exceeded: Denial = "throttle"
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    per: str | None = None
    max_values: int = 0

    def check(self, event: UsageEvent, stored: object, context: Context) -> Check:
        counter = msgspec.convert(stored, RateCounter) if stored is not None else RateCounter()
        amount = amount_of(event, self.meters)
        ceiling = self.burst * self.per_us
        elapsed_us = max(0, context.now_us - counter.updated_us)
        debt = max(0, counter.debt - self.units * min(elapsed_us, -(-ceiling // self.units)))
        line = LimitResult(
            id=self.id,
            kind="rate",
            result="not_applicable",
            unit=self.unit,
            mode=self.mode,
            when_exceeded=self.when_exceeded,
            meters=self.meters,
            period=self.rate,
            amount=amount,
            used=-(-debt // self.per_us),
            limit=self.burst,
            remaining=(ceiling - debt) // self.per_us,
        )
        if not amount:
            return Check(line)
        # Capped, because a bypassed or recorded event may be larger than any debt that could ever melt in time.
        debt_after = ceiling if amount >= self.burst else min(ceiling, debt + amount * self.per_us)
        after = RateCounter(max(context.now_us, counter.updated_us), debt_after)
        if amount > self.burst:
            return Check(
                msgspec.structs.replace(line, result="deny", when_exceeded="stop"), after, reason="above_burst"
            )
        excess = debt + amount * self.per_us - ceiling
        if excess <= 0:
            return Check(msgspec.structs.replace(line, result="pass"), after)
        denied = msgspec.structs.replace(line, result="deny", retry_after_us=-(-excess // self.units))
        return Check(denied, after, reason="rate_exceeded")

    def exhaustion(self, stored: object, context: Context) -> Exhaustion | None:  # noqa: ARG002
        """Never: a rate denial throttles for a moment and says nothing of the contract."""
        return None
