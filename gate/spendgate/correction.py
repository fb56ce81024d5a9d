"""Corrections: what was committed under a decision is put right, and the original stays as it is.

A correction says what one meter's quantity really was; 0 voids it. The difference to what counted before is debited, or taken
back, in the periods of the original: books and UsageBox get it whatever its age, counters only where they still hold the
original. `finish` in reservation.py, with `corrects`, is the definition of what it does to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from spendgate.event import UsageEvent
from spendgate.held import place_of
from spendgate.limits import NOT_KEPT, Counters, Credits, Quota, counter_field
from spendgate.limits.check import amount_of, applies
from spendgate.policy import EffectivePolicy


class Correction(msgspec.Struct, frozen=True, array_like=True):
    """`id` makes it idempotent; `decision_id` is the original, and `usage_id` what UsageBox calls its usage; `before` is what
    counted until now, after earlier corrections, and `after` what is right; `actor` made it, for `reason`."""

    id: str
    decision_id: str
    usage_id: str
    meter: str
    before: int
    after: int
    actor: str
    reason: str

    @property
    def delta(self) -> dict[str, int]:
        """What is debited for it, below 0 where something is taken back."""
        return {self.meter: self.after - self.before}


class Change(msgspec.Struct, frozen=True):
    """What a correction did to one limit: `before` and `after` are used `unit`s of the period that the original counts in
    (None: a wallet's), and of one `value` where the limit counts them apart. Both None: the counter of that period is kept
    no longer, so nothing is enforced there and only the books changed."""

    limit_id: str
    unit: str
    period_start_seconds: int | None
    value: str | None
    before: int | None
    after: int | None


def changes_of(
    policy: EffectivePolicy,
    event: UsageEvent,
    delta: Mapping[str, int],
    counters: Counters,
    after: Counters,
    effective_at_us: int,
) -> Iterator[Change]:
    """What the limits that count use say after `delta` was debited for `event`. `counters` are those before it and `after`
    those that it changed."""
    debit = msgspec.structs.replace(event, quantities=dict(delta))
    for limit in policy.limits:
        counts = isinstance(limit, Quota | Credits) and applies(limit.match, event)
        if not counts or not amount_of(debit, limit.meters):
            continue
        place, field = place_of(limit, event, effective_at_us), counter_field(limit)
        counter: Any = counters.get(field)
        kept = counter != NOT_KEPT and limit.keeps(counter, effective_at_us)
        yield Change(
            limit_id=limit.id,
            unit=limit.unit,
            period_start_seconds=place.period_start_seconds or None if place is not None else None,
            value=place.value if place is not None else None,
            before=counter.used if kept else None,
            after=after.get(field, counter).used if kept else None,
        )
