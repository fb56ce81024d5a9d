"""What open reservations hold: the definition of `reserved` in every counter.

A reservation counts under the policy it was given under, in the periods of the instant it was given at, until it ends.
Counters only remember the sum; `reserved_of` is what the sum must be, and a counter that says otherwise is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits import Limit, Quota, counter_field
from spendgate.limits.check import applies, text_of
from spendgate.policy import EffectivePolicy

UNIT_OF_KIND: Final = {"credits": "micro-credits", "concurrency": "run"}
"""Kinds that count the same whatever their meters."""


class Place(msgspec.Struct, frozen=True):
    """A counter: its field (see `counter_field`), the start of its period (0: it has none), and for a limit with `per`
    the value that it counts."""

    field: str
    period_start_seconds: int
    value: str | None


class Repaired(msgspec.Struct, frozen=True, array_like=True):
    """One thing that did not add up. `kind`: that of a limit, whose counter held `before` units for reservations and holds
    `after`; `used`: of a quota, which had counted `before` units as used and counts `after`; `deadline`: of the reservation of event `value`; `calendar`: when the sweep comes by. The last two are
    Unix microseconds, 0 for none. `value` is empty for a limit without `per`."""

    kind: str
    limit_id: str
    period_start_seconds: int
    value: str
    before: int
    after: int

    def unit_in(self, policy: EffectivePolicy | None) -> str:
        """What `before` and `after` count, by the policy in force. Reservations also hold limits of the policies that they
        were given under: a quota that it has no more is told in units."""
        field = f"{'quota' if self.kind == 'used' else self.kind}:{self.limit_id}"
        units = {counter_field(limit): limit.unit for limit in (policy.limits if policy is not None else ())}
        return units.get(field, UNIT_OF_KIND.get(self.kind, "unit"))


def place_of(limit: Limit, event: UsageEvent, at_us: int) -> Place | None:
    """Where a limit counts an event that it concerns; None when its table of periods is exhausted."""
    start = 0
    if isinstance(limit, Quota):
        period = limit.window.period_at(at_us)
        if period is None:
            return None
        start = period[0]
    value = text_of(event.metadata.get(limit.per)) or "" if limit.per is not None else None
    return Place(counter_field(limit), start, value)


def reserved_of(open_now: Iterable[tuple[UsageEvent, int, EffectivePolicy]]) -> dict[Place, int]:
    """Units that reservations (event as reserved, Unix microseconds at which it was, policy it was given under) hold."""
    units: dict[Place, int] = defaultdict(int)
    for event, effective_at_us, policy in open_now:
        for limit in policy.limits:
            held = limit.held(event) if applies(limit.match, event) else 0
            place = place_of(limit, event, effective_at_us) if held else None
            if place is not None:
                units[place] += held
    return dict(units)
