"""`credits`: a wallet. Balance = granted − weighted use − weighted external use − reserved, in micro-credits.

What is granted for good is cumulative, so a grant that arrives while usage is in flight can't be lost or counted twice.
Grants that expire come on top and are burnt first, the soonest to expire before the others; what is left of one when it
expires is gone. Use that no grant covered is the cumulative part's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

import msgspec

from spendgate.errors import TooLarge
from spendgate.event import UsageEvent
from spendgate.limits.check import STALE_RETRY_US, Check, Context, Ending, Exhaustion, Grant, matches
from spendgate.limits.counter import checked_sum
from spendgate.limits.layout import pack_integers, unpack_integers
from spendgate.limits.result import MAX_COUNTER, Denial, LimitResult, Mode


class Weight(msgspec.Struct, frozen=True):
    """Price of one unit of `meter` in whole micro-credits for models that match `model` (`*`: any, or none)."""

    meter: str
    model: str
    micro_credits: int


_WIDTHS: Final = (7, 7, 7, 7, 7, 7, 7, 7)
"""`>I7I7I7I7I7I7I7I7` in Lua; what follows is `burnt`, in MessagePack, or nothing."""


class WalletCounter(msgspec.Struct, frozen=True):
    """Micro-credits. `burnt` is, per grant that still exists, what was taken from it; `covered` is what grants ever
    covered of `used` and `external`; `external_seen` is the external use that was already taken from a grant or from the
    rest. The other fields are those of `PeriodCounter`."""

    used: int = 0
    external: int = 0
    external_at_us: int = 0
    reserved: int = 0
    stale_since_us: int = 0
    stale_used: int = 0
    external_seen: int = 0
    covered: int = 0
    burnt: tuple[tuple[str, int], ...] = ()

    def burnt_of(self, grant_id: str) -> int:
        return next((units for name, units in self.burnt if name == grant_id), 0)

    def stale_units(self, mirrored_at_us: int) -> int:
        """See `PeriodCounter.stale_units`."""
        return self.stale_used if self.stale_since_us == mirrored_at_us else 0

    def encode(self) -> bytes:
        """As it is stored."""
        numbers = [getattr(self, name) for name in self.__struct_fields__[:-1]]
        return pack_integers(_WIDTHS, numbers) + (msgspec.msgpack.encode(self.burnt) if self.burnt else b"")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`. Raises ValueError."""
        (used, external, read_us, reserved, stale_us, stale_used, seen, covered), more = unpack_integers(_WIDTHS, raw)
        burnt = _burnt_decoder.decode(more) if more else ()
        return cls(used, external, read_us, reserved, stale_us, stale_used, seen, covered, burnt)


class Credits(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="credits"):
    """Weights are tried in order, the first match counts. A meter without any weight is free of credits; a meter
    whose weights match no pattern for the event's model is refused (`model_without_weight`).
    `granted_when_unknown` micro-credits stand in when the source states no grants."""

    Counter: ClassVar = WalletCounter

    id: str
    meters: tuple[str, ...]
    weights: tuple[Weight, ...]
    floor: int = 0
    granted_when_unknown: int = 0
    when_exceeded: Denial = "stop"
    mode: Mode = "enforce"
    unit: str = "micro-credits"
    match: dict[str, str] = {}
    per: None = None
    max_values: int = 0
    outage_allowance: int = 0

    def rule(self) -> list[Any]:
        """The kind's own part of what the script reads: see credits.lua."""
        weights = [part for weight in self.weights for part in (weight.meter, weight.model, weight.micro_credits)]
        return [weights, self.floor, self.granted_when_unknown, self.outage_allowance]

    def alone(self, slots: int) -> Credits:
        """See `Quota.alone`; a wallet has no period, so its share does not come back by itself."""
        share = self.outage_allowance // slots
        return msgspec.structs.replace(self, granted_when_unknown=share, floor=0)

    def cost_of(self, event: UsageEvent) -> int | None:
        """Micro-credits of `event`; None when a weight is missing. Raises TooLarge beyond 9×10^15."""
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
                raise TooLarge("cost_too_large", self.id)
        return cost

    def _weight_of(self, meter: str, model: str) -> int | None:
        for weight in self.weights:
            if weight.meter == meter and matches(weight.model, model):
                return weight.micro_credits
        return None

    def _granted(self, context: Context) -> int:
        """What was granted for good."""
        if context.granted_micro_credits is not None:
            return context.granted_micro_credits
        return 0 if context.grants else self.granted_when_unknown

    def _lasting(self, counter: WalletCounter, context: Context) -> int:
        """What is left of everything granted, reservations not counted."""
        rest = self._granted(context) - (counter.used + counter.external - counter.covered)
        return rest + sum(
            grant.micro_credits - counter.burnt_of(grant.id)
            for grant in context.grants
            if grant.lives_at(context.now_us)
        )

    def check(self, event: UsageEvent, counter: WalletCounter | None, context: Context) -> Check:
        """`counter` None: nothing was used yet."""
        counter = counter or WalletCounter()
        cost = self.cost_of(event)
        lasting = self._lasting(counter, context)
        balance = lasting - counter.reserved
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
            reserved=counter.reserved,
            external=counter.external,
            limit=lasting + counter.used + counter.external,
            floor=self.floor,
            remaining=balance,
        )
        if cost is None:
            denied = msgspec.structs.replace(line, result="deny", when_exceeded="stop")
            return Check(denied, reason="model_without_weight")
        if not cost:
            return Check(line)
        checked_sum(counter.used + counter.external + counter.reserved, cost, self.id)
        if context.reserving:
            after = msgspec.structs.replace(counter, reserved=counter.reserved + cost)
        else:
            after = self._debited(counter, cost, context, context.now_us)
        stale_units = counter.stale_units(context.stale_mirror_us) + cost
        if context.stale_mirror_us:
            after = msgspec.structs.replace(after, stale_since_us=context.stale_mirror_us, stale_used=stale_units)
        if cost > balance:
            return Check(msgspec.structs.replace(line, result="deny"), after, reason="credits_exceeded")
        if context.stale_mirror_us and stale_units > self.outage_allowance:
            waiting = msgspec.structs.replace(
                line, result="deny", when_exceeded="throttle", retry_after_us=STALE_RETRY_US
            )
            return Check(waiting, after, reason="mirror_stale")
        return Check(msgspec.structs.replace(line, result="pass"), after)

    def _debited(self, counter: WalletCounter, cost: int, context: Context, at_us: int) -> WalletCounter:
        used = max(0, checked_sum(counter.used, cost, self.id))
        counter = msgspec.structs.replace(counter, used=used)
        if cost < 0:
            return give_back(counter)
        if not context.grants:
            return counter
        return burn(counter, cost, context.grants, self._granted(context), at_us)

    def read_external(self, counter: WalletCounter, context: Context) -> WalletCounter:
        """The wallet after its external use was read anew: grants cover that, too."""
        return burn(counter, 0, context.grants, self._granted(context), context.now_us) if context.grants else counter

    def finish(self, counter: WalletCounter | None, ending: Ending) -> tuple[WalletCounter | None, tuple[str, ...]]:
        """The wallet after a reservation ended; what is committed is taken from the grants of the time it began."""
        counter = counter or WalletCounter()
        held = (self.cost_of(ending.held) or 0) if ending.held is not None else 0
        counter = msgspec.structs.replace(counter, reserved=max(0, counter.reserved - held))
        cost = self.cost_of(ending.committed) or 0
        return self._debited(counter, cost, ending.context, ending.effective_at_us), ()

    def keeps(self, counter: WalletCounter | None, at_us: int) -> bool:  # noqa: ARG002
        """See `Quota.keeps`: a wallet has no period."""
        return counter is not None

    def held(self, event: UsageEvent) -> int:
        """What a reservation of this event holds; nothing where a weight is missing."""
        return self.cost_of(event) or 0

    def exhaustion(self, counter: WalletCounter | None, context: Context) -> Exhaustion | None:
        """What is reserved does not count: it may be released."""
        return None if self._lasting(counter or WalletCounter(), context) > self.floor else Exhaustion(0)

    def changes_at_us(self, context: Context) -> int:
        """When the next grant expires; 0 when none will."""
        return min((grant.expires_at_us for grant in context.grants if grant.expires_at_us > context.now_us), default=0)


def burn(counter: WalletCounter, cost: int, grants: Sequence[Grant], granted: int, at_us: int) -> WalletCounter:
    """Take from the grants that live at `at_us`, in their order: `cost` (already in `used`), external use not seen yet,
    and what had overdrawn the part granted for good. What no grant has room for stays with that part."""
    before = counter.used - cost + counter.external_seen - counter.covered
    wanted = cost + max(0, counter.external - counter.external_seen) + max(0, before - granted)
    burnt, covered = [], counter.covered
    for grant in grants:
        units = counter.burnt_of(grant.id)
        if grant.lives_at(at_us):
            taken = max(0, min(wanted, grant.micro_credits - units))
            units, wanted, covered = units + taken, wanted - taken, covered + taken
        if units:
            burnt.append((grant.id, units))
    return msgspec.structs.replace(counter, burnt=tuple(burnt), external_seen=counter.external, covered=covered)


def give_back(counter: WalletCounter) -> WalletCounter:
    """After `used` went down: grants cover no more than what was used at all, and those burnt last get theirs back first.
    So everything is as if less had been used; what a grant gets back that has expired is gone with it."""
    surplus = max(0, counter.covered - counter.used - counter.external_seen)
    rest, burnt = surplus, []
    for grant_id, units in reversed(counter.burnt):
        back = min(units, rest)
        rest -= back
        if units > back:
            burnt.append((grant_id, units - back))
    return msgspec.structs.replace(counter, burnt=tuple(reversed(burnt)), covered=counter.covered - surplus)


_burnt_decoder = msgspec.msgpack.Decoder(tuple[tuple[str, int], ...])
