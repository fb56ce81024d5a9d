"""`rate`: units per time, as GCRA (the virtual scheduling of ITU-T I.371) in whole numbers.

R units per P µs with a burst of B units: a debt in unit·µs that melts by R each µs and may not exceed B·P. No
division touches the state, so nothing drifts; a backward clock melts nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits.check import Check, Context, Ending, Exhaustion, amount_of
from spendgate.limits.layout import pack_integers, unpack_integers
from spendgate.limits.result import Denial, LimitResult, Mode

_WIDTHS: Final = (7, 7)
"""`>I7I7` in Lua."""


class RateCounter(msgspec.Struct, frozen=True):
    """The debt as of `updated_us`, in unit·µs."""

    updated_us: int = 0
    debt: int = 0

    def encode(self) -> bytes:
        """As it is stored."""
        return pack_integers(_WIDTHS, (self.updated_us, self.debt))

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`. Raises ValueError."""
        return cls(*unpack_integers(_WIDTHS, raw)[0])


class Rate(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="rate"):
    """`units` per `per_us`, in lowest terms; `burst` units may come at once; `rate` is the document's wording.
    The compiler keeps `burst × per_us + units` at or below 9×10^15."""

    Counter: ClassVar = RateCounter

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

    def rule(self) -> list[Any]:
        """The kind's own part of what the script reads: see rate.lua."""
        return [self.units, self.per_us, self.burst]

    def alone(self, slots: int) -> Rate:
        """See `Quota.alone`: an equal part of the rate and of the burst."""
        return msgspec.structs.replace(self, per_us=self.per_us * slots, burst=self.burst // slots)

    @property
    def ceiling(self) -> int:
        """The most debt, in unit·µs."""
        return self.burst * self.per_us

    @property
    def melts_in_us(self) -> int:
        """After this long any debt is gone."""
        return -(-self.ceiling // self.units)

    def _melted(self, counter: RateCounter, now_us: int) -> int:
        """A debt from a time of a larger burst is the most that this one knows, so that it melts in time, too."""
        elapsed_us = max(0, now_us - counter.updated_us)
        return max(0, min(counter.debt, self.ceiling) - self.units * min(elapsed_us, self.melts_in_us))

    def check(self, event: UsageEvent, counter: RateCounter | None, context: Context) -> Check:
        """`counter` None: nothing was used yet."""
        counter, ceiling = counter or RateCounter(), self.ceiling
        amount = amount_of(event, self.meters)
        debt = self._melted(counter, context.now_us)
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

    def finish(self, counter: RateCounter | None, ending: Ending) -> tuple[RateCounter | None, tuple[str, ...]]:
        """What was reserved counted when it was reserved; the difference to what is committed counts now."""
        held = amount_of(ending.held, self.meters) if ending.held is not None else 0
        more = amount_of(ending.committed, self.meters) - held
        if not more:
            return counter, ()
        counter = counter or RateCounter()
        debt = self._melted(counter, ending.context.now_us)
        if abs(more) >= self.burst:
            debt = self.ceiling if more > 0 else 0
        else:
            debt = max(0, min(self.ceiling, debt + more * self.per_us))
        return RateCounter(max(ending.context.now_us, counter.updated_us), debt), ()

    def keeps(self, counter: RateCounter | None, at_us: int) -> bool:  # noqa: ARG002
        """Never: a debt is of now, and what was debited has melted."""
        return False

    def held(self, event: UsageEvent) -> int:  # noqa: ARG002
        """Nothing: it keeps no count of what is reserved."""
        return 0

    def exhaustion(self, counter: RateCounter | None, context: Context) -> Exhaustion | None:  # noqa: ARG002
        """Never: a rate denial throttles for a moment and says nothing of the contract."""
        return None

    def changes_at_us(self, context: Context) -> int:  # noqa: ARG002
        return 0
