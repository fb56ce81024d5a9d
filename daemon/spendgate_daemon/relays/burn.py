"""How fast a customer uses up each limit, from the counters themselves: so it is right for credits, too."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from spendgate.limits.result import LimitResult

SAMPLE_SPACING_US: Final = 15_000_000
SAMPLES_KEPT: Final = 240
"""An hour at the closest spacing."""

MIN_SPAN_US: Final = 30_000_000
HOUR_US: Final = 3_600_000_000
LIMITS_TRACKED: Final = 200_000


class BurnMeter:
    """Samples of use per limit and period. It forgets the limits that were longest not seen; a restart forgets all, and
    until two samples are MIN_SPAN_US apart no burn is claimed."""

    def __init__(self) -> None:
        self._samples: OrderedDict[tuple[str, str, int | None], deque[tuple[int, int]]] = OrderedDict()
        self._external_seen: dict[tuple[str, str, int | None], bool] = {}

    def observe(self, customer_id: str, line: LimitResult, now_us: int) -> None:
        """Note the use of a quota or credits limit now."""
        key = (customer_id, line.id, line.period_start_seconds)
        samples = self._samples.setdefault(key, deque(maxlen=SAMPLES_KEPT))
        self._samples.move_to_end(key)
        used = line.used + line.external
        if samples and line.external and not self._external_seen.get(key):
            samples.clear()  # a first reading of what was used elsewhere is history, not burn
        self._external_seen[key] = bool(line.external)
        if not samples or now_us - samples[-1][0] >= SAMPLE_SPACING_US:
            samples.append((now_us, used))
        while len(self._samples) > LIMITS_TRACKED:
            forgotten, _ = self._samples.popitem(last=False)
            self._external_seen.pop(forgotten, None)

    def per_hour(self, customer_id: str, line: LimitResult, now_us: int) -> int | None:
        """Units an hour over the last hour at most; None while too little was seen."""
        samples = self._samples.get((customer_id, line.id, line.period_start_seconds))
        if not samples:
            return None
        at_us, used = next((sample for sample in samples if now_us - sample[0] <= HOUR_US), samples[-1])
        span_us = now_us - at_us
        if span_us < MIN_SPAN_US:
            return None
        return max(0, (line.used + line.external - used) * HOUR_US // span_us)


def exhausts_at_us(line: LimitResult, per_hour: int | None, now_us: int) -> int | None:
    """When the limit runs out at this burn; None when it does not before its period ends, or has no ceiling."""
    if line.remaining is None or line.mode != "enforce" or not per_hour:
        return None
    left = max(0, line.remaining - line.floor)
    at_us = now_us + left * HOUR_US // per_hour
    if line.period_end_seconds is not None and at_us >= line.period_end_seconds * 1_000_000:
        return None
    return at_us
