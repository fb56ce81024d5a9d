"""Periods and rates of the document → windows and whole numbers.

Calendar tables start at a coarse edge (this year for months, this month for days and weeks), so that compiling the same
contract on two days of one month gives the same policy and the same digest.
"""

from __future__ import annotations

import bisect
import calendar
import math
import re
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from spendgate.window import Window, calendar_window

CALENDAR_PERIODS: Final = ("month", "week", "day")
PERIODS_AHEAD: Final = 64

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE_US = {"s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "day": 86_400_000_000}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_RATE = re.compile(r"([1-9][0-9_]{0,15})/(s|min|h|day)")
_MONDAY_SECONDS = 345_600  # 1970-01-05


def parse_duration_seconds(text: str) -> int | None:
    """Seconds of `5h`, `90m`, `7d`; None when the text is no duration of at least a minute and at most ten years."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    seconds = int(match[1]) * _SECONDS[match[2]]
    return seconds if 60 <= seconds <= 3650 * 86_400 else None


def parse_rate(text: str) -> tuple[int, int, int] | None:
    """(units, per_us) in lowest terms, and the number of units as written; None when the text is no rate."""
    match = _RATE.fullmatch(text)
    if match is None:
        return None
    number, per_us = int(match[1].replace("_", "")), _RATE_US[match[2]]
    divisor = math.gcd(number, per_us)
    return number // divisor, per_us // divisor, number


def window_of(period: str, anchor_day: int, zone: str, now: datetime) -> Window:
    """The window of a checked period. `now` only decides which periods a calendar table covers."""
    seconds = parse_duration_seconds(period)
    if seconds is not None:
        return Window(length_seconds=seconds)
    if zone in ("UTC", "Etc/UTC") and period == "day":
        return Window(length_seconds=86_400)
    if zone in ("UTC", "Etc/UTC") and period == "week":
        return Window(length_seconds=7 * 86_400, anchor_seconds=_MONDAY_SECONDS)
    return calendar_window(boundaries_of(period, anchor_day, zone, now))


def boundaries_of(period: str, anchor_day: int, zone: str, now: datetime) -> list[int]:
    """Ascending starts, in Unix seconds, of 64 periods and the end of the last. A day starts at the zone's local
    midnight; where that does not exist, at the first instant after it. A month starts on `anchor_day`, or on its last
    day where it is shorter. A day that a zone skipped altogether (Apia, 2011-12-30) has no period."""
    tz = ZoneInfo(zone)
    local = now.astimezone(tz)
    if period == "month":
        first = (local.year - 1) * 12 + 11  # December of last year: an anchor on the 31st may reach into January
        months = range(first, first + PERIODS_AHEAD + 1)
        dates = [_anchored(month // 12, month % 12 + 1, anchor_day) for month in months]
    else:
        start = datetime(local.year, local.month, 1)  # noqa: DTZ001  (a local date, localised below)
        step = timedelta(days=7 if period == "week" else 1)
        # One period early: Redis' clock may still be in last month when ours is not.
        start -= step + timedelta(days=start.weekday() if period == "week" else 0)
        dates = [start + step * index for index in range(PERIODS_AHEAD + 1)]
    return sorted({_midnight_seconds(date, tz) for date in dates})


def _anchored(year: int, month: int, anchor_day: int) -> datetime:
    last = calendar.monthrange(year, month)[1]
    return datetime(year, month, min(anchor_day, last))  # noqa: DTZ001  (a local date, localised by the caller)


def _midnight_seconds(local: datetime, tz: ZoneInfo) -> int:
    """The first instant whose local clock shows `local` or later. Where the clock shows midnight twice it is the
    first time; where it jumps over midnight, the jump, which lies between the readings of both offsets."""
    low = int(local.replace(tzinfo=tz, fold=1).timestamp())
    high = int(local.replace(tzinfo=tz, fold=0).timestamp())
    if high <= low:
        return high

    def reached(instant: int) -> bool:
        return datetime.fromtimestamp(instant, tz).replace(tzinfo=None) >= local

    return low + bisect.bisect_left(range(low, high + 1), True, key=reached)
