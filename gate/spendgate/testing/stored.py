"""What is stored of one customer, and where its counters are found and kept: what the Lua modules `kept` and `per` do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits import (
    NOT_KEPT,
    Concurrency,
    Counter,
    Counters,
    Limit,
    PeriodCounter,
    Quota,
    Rate,
    counter_field,
    speaks_of_all,
)
from spendgate.limits.check import amount_of, applies, text_of
from spendgate.policy import EffectivePolicy
from spendgate.reservation import Facts, OpenEntry
from spendgate.state import OverrideSet, PolicyState, Standing

_HOUR_SECONDS: Final = 3600
_DAY_SECONDS: Final = 86_400


class Ended(msgspec.Struct, frozen=True):
    """How a reservation ended."""

    stream_id: str
    reason: str
    facts: Facts


class Remembered(msgspec.Struct):
    """An allowed event."""

    fingerprint: bytes
    stream_id: str
    at_us: int
    repeated: bool = False


class Customer(msgspec.Struct):
    """`counters` of the open period by field, those of the period before in `before`; `per` maps (field, period) to
    counters by value, and `per_expires` to the second from which the sweep drops them."""

    id: str
    state: PolicyState | None = None
    override_set: OverrideSet | None = None
    counters: dict[str, Counter] = msgspec.field(default_factory=dict)
    before: dict[str, PeriodCounter] = msgspec.field(default_factory=dict)
    per: dict[tuple[str, int], dict[str, Counter]] = msgspec.field(default_factory=dict)
    per_expires: dict[tuple[str, int], int] = msgspec.field(default_factory=dict)
    standing_stored: Standing | None = None
    seen: dict[tuple[int, bytes], Remembered] = msgspec.field(default_factory=dict)
    ended: dict[tuple[int, bytes], Ended] = msgspec.field(default_factory=dict)
    open: dict[str, OpenEntry] = msgspec.field(default_factory=dict)
    ends: dict[str, int] = msgspec.field(default_factory=dict)
    last_correction: tuple[str, str] | None = None

    @property
    def known(self) -> bool:
        return self.state is not None and self.state.status != "unknown"

    @property
    def standing(self) -> Standing:
        return self.standing_stored or Standing()

    def find_counters(
        self,
        policy: EffectivePolicy,
        event: UsageEvent | None,
        at_us: int,
        now_us: int,
        *,
        late: bool = False,
        as_stored: bool = False,
    ) -> Counters:
        """Stored counters by field, of the period that contains `at_us` where it matters; of a limit with `per`, the
        event's own, if it is concerned. `late`: a debit that comes later than it took effect; `as_stored`: of the open
        period, whatever the clock says."""
        found: Counters = {}
        for limit in policy.limits:
            concerned = event is not None and applies(limit.match, event) and amount_of(event, limit.meters) > 0
            if limit.per is None:
                matters = late or concerned or (speaks_of_all(limit) and limit.mode == "enforce")
                stored = self.counters.get(counter_field(limit))
                counter = self.find(limit, at_us, late=late) if matters and not as_stored else stored
            elif event is None or not concerned:
                continue
            else:
                counter = self._find_per(limit, event, now_us if isinstance(limit, Rate) else at_us)
            if counter is not None:
                found[counter_field(limit)] = counter
        return found

    def find(self, limit: Limit, at_us: int, *, late: bool = False) -> Counter | bytes | None:
        field = counter_field(limit)
        counter = self.counters.get(field)
        if not isinstance(limit, Quota) or not isinstance(counter, PeriodCounter):
            return counter
        period = limit.window.period_at(at_us)
        if period is None or counter.period_start_seconds <= period[0]:
            return counter
        before = self.before.get(field)
        if late and before is not None and before.period_start_seconds > period[0]:
            return NOT_KEPT
        return before if before is not None and before.period_start_seconds == period[0] else None

    def _find_per(self, limit: Limit, event: UsageEvent, at_us: int) -> Counter | bytes | None:
        value, field = value_of(limit, event), counter_field(limit)
        period, earlier, _ = _periods(limit, at_us)
        counters = self.per.get((field, period), {})
        counter = counters.get(value)
        if counter is None and earlier is not None:
            counter = self.per.get((field, earlier), {}).get(value)
        return NOT_KEPT if counter is None and len(counters) >= limit.max_values else counter

    def keep_counters(
        self, policy: EffectivePolicy, event: UsageEvent, at_us: int, now_us: int, counters: Mapping[str, Counter]
    ) -> None:
        for limit in policy.limits:
            field = counter_field(limit)
            if field not in counters:
                continue
            if limit.per is None:
                self.keep(field, counters[field])
                continue
            period, _, expires = _periods(limit, now_us if isinstance(limit, Rate) else at_us)
            kept = self.per.setdefault((field, period), {})
            if not kept and expires is not None:
                self.per_expires[field, period] = expires
            kept[value_of(limit, event)] = counters[field]
            if isinstance(limit, Concurrency) and getattr(counters[field], "open", 1) == 0:
                del kept[value_of(limit, event)]

    def drop_expired(self, now_seconds: int) -> None:
        for place in [place for place, expires in self.per_expires.items() if expires <= now_seconds]:
            del self.per[place], self.per_expires[place]

    def keep(self, field: str, counter: Counter) -> None:
        current = self.counters.get(field)
        if isinstance(current, PeriodCounter) and isinstance(counter, PeriodCounter):
            if counter.period_start_seconds < current.period_start_seconds:
                self.before[field] = counter
                return
            if counter.period_start_seconds > current.period_start_seconds:
                self.before[field] = current
        self.counters[field] = counter


def value_of(limit: Limit, event: UsageEvent) -> str:
    """The value of a limit's `per` field that an event has."""
    return text_of(event.metadata.get(limit.per or "")) or ""


def _periods(limit: Limit, at_us: int) -> tuple[int, int | None, int | None]:
    """The period whose counters are the limit's at that instant, the one to look in when there is none, and from when
    the sweep may drop it (None: never)."""
    at = at_us // 1_000_000
    if isinstance(limit, Quota):
        start, ends = limit.window.period_at(at_us) or (0, 0)
        return start, None, ends + 2 * _DAY_SECONDS
    if not isinstance(limit, Rate):
        return 0, None, None
    length = max(_HOUR_SECONDS, -(-limit.melts_in_us // 1_000_000))
    start = at - at % length
    return start, start - length, start + 3 * length
