"""`credits`: a wallet. Balance = granted in all − weighted use − weighted external use, in micro-credits.

Grants are cumulative, so a grant that arrives while usage is in flight can't be lost or counted twice.
"""

from __future__ import annotations

import msgspec

from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent
from spendgate.limits.check import Check, Context, Exhaustion, checked_sum, matches
from spendgate.limits.quota import QuotaCounter
from spendgate.limits.result import MAX_COUNTER, Denial, LimitResult, Mode


class Weight(msgspec.Struct, frozen=True):
    """Price of one unit of `meter` in whole micro-credits for models that match `model` (`*`: any, or none)."""

    meter: str
    model: str
    micro_credits: int


class Credits(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="credits"):
    """Weights are tried in order, the first match counts. A meter without any weight is free of credits; a meter
    whose weights match no pattern for the event's model is refused (`model_without_weight`).
    `granted_when_unknown` micro-credits stand in when the source states no grants."""

    id: str
    meters: tuple[str, ...]
    weights: tuple[Weight, ...]
    floor: int = 0
    granted_when_unknown: int = 0
    when_exceeded: Denial = "stop"
    mode: Mode = "enforce"
    unit: str = "micro-credits"
    match: dict[str, str] = {}
    outage_allowance: int = 0

    def cost_of(self, event: UsageEvent) -> int | None:
        """Micro-credits of `event`; None when a weight is missing. Raises InvalidEvent beyond 9×10^15."""
        cost = 0
        for meter in self.meters:
            quantity = event.quantities.get(meter)
            if quantity is None:
                continue
            weight = self._weight_of(meter, event.model or "")
            if weight is None:
                return None
            cost += quantity * weight
            if cost > MAX_COUNTER:
                raise InvalidEvent("quantity", f"small enough to cost at most {MAX_COUNTER} micro-credits")
        return cost

    def _weight_of(self, meter: str, model: str) -> int | None:
        for weight in self.weights:
            if weight.meter == meter and matches(weight.model, model):
                return weight.micro_credits
        return None

    def _granted(self, context: Context) -> int:
        granted = context.granted_micro_credits
        return self.granted_when_unknown if granted is None else granted

    def check(self, event: UsageEvent, stored: object, context: Context) -> Check:
        counter = msgspec.convert(stored, QuotaCounter) if stored is not None else QuotaCounter()
        cost = self.cost_of(event)
        granted = self._granted(context)
        effective = counter.used + counter.external
        line = LimitResult(
            id=self.id,
            kind="credits",
            result="not_applicable",
            unit=self.unit,
            mode=self.mode,
            when_exceeded=self.when_exceeded,
            meters=self.meters,
            amount=cost or 0,
            used=counter.used,
            external=counter.external,
            limit=granted,
            floor=self.floor,
            remaining=granted - effective,
        )
        if cost is None:
            denied = msgspec.structs.replace(line, result="deny", when_exceeded="stop")
            return Check(denied, reason="model_without_weight")
        if not cost:
            return Check(line)
        after = msgspec.structs.replace(counter, used=checked_sum(counter.used, cost, self.id))
        if effective + cost <= granted:
            return Check(msgspec.structs.replace(line, result="pass"), after)
        return Check(msgspec.structs.replace(line, result="deny"), after, reason="credits_exceeded")

    def exhaustion(self, stored: object, context: Context) -> Exhaustion | None:
        counter = msgspec.convert(stored, QuotaCounter) if stored is not None else QuotaCounter()
        if self._granted(context) - counter.used - counter.external > self.floor:
            return None
        return Exhaustion(0)
