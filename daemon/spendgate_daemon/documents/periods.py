"""Periods of the document → windows.

Calendar tables start at a coarse edge (last year for months, last month for days and weeks) that the UTC month of `now`
decides alone. So compiling the same contract twice in one month gives the same policy and the same digest, whatever the
customer's zone is and whoever compiles it.
"""

from __future__ import annotations

import bisect
import calendar
import functools
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec

from spendgate.window import Window, calendar_window
from spendgate_daemon.documents.document import QuotaRule, Weekday
from spendgate_daemon.documents.notation import parse_duration_seconds, parse_instant_us

CALENDAR_PERIODS: Final = ("month", "week", "day")
PERIODS_AHEAD: Final = 64
CONTRACT: Final = "contract"

_WEEKDAYS: Final = get_args(Weekday)
_DAY_SECONDS: Final = 86_400
_MONDAY_SECONDS: Final = 345_600
"""1970-01-05"""


class Period(msgspec.Struct, frozen=True):
    """Where a quota's periods begin. Two rules that say the same in different words have equal ones: `60m` and `1h`, or
    `24h` and a day in UTC. A `duration` has its length and its anchor below the length; the others have a zone, which
    may be `contract`."""

    kind: Literal["month", "week", "day", "duration"]
    zone: str = ""
    anchor_day: int | Literal["contract"] = 1
    weekday: int = 0
    length_seconds: int = 0
    anchor_seconds: int = 0

    @property
    def shortest_seconds(self) -> int:
        return self.length_seconds or {"month": 28, "week": 7, "day": 1}[self.kind] * _DAY_SECONDS

    @property
    def longest_seconds(self) -> int:
        """As the calendar says: the hour of daylight saving makes no day longer than a day here."""
        return self.length_seconds or {"month": 31, "week": 7, "day": 1}[self.kind] * _DAY_SECONDS


def period_of(rule: QuotaRule, document_zone: str) -> Period:
    """The period as the document states it. The rule is a checked one."""
    if rule.period == "month":
        return Period("month", zone=rule.timezone or document_zone, anchor_day=rule.anchor_day)
    if rule.period == "week":
        weekday = _WEEKDAYS.index(rule.anchor_weekday)
        return _simplest(Period("week", zone=rule.timezone or document_zone, weekday=weekday))
    if rule.period == "day":
        return _simplest(Period("day", zone=rule.timezone or document_zone))
    length = parse_duration_seconds(rule.period)
    if not length:
        raise ValueError(f"{rule.period!r} passed the checks and is no period")
    anchor_us = parse_instant_us(rule.anchor) if rule.anchor is not None else 0
    return Period("duration", length_seconds=length, anchor_seconds=(anchor_us or 0) // 1_000_000 % length)


def of_customer(period: Period, zone: str, anchor_day: int) -> Period:
    """The period with the contract's zone and billing day put in where it asks for them."""
    return _simplest(
        msgspec.structs.replace(
            period,
            zone=zone if period.zone == CONTRACT else period.zone,
            anchor_day=anchor_day if period.anchor_day == CONTRACT else period.anchor_day,
        )
    )


def window_of(period: Period, now: datetime) -> Window:
    """The window of a customer's period. `now` only decides which periods a calendar table covers."""
    if period.kind == "duration":
        return Window(length_seconds=period.length_seconds, anchor_seconds=period.anchor_seconds)
    utc = now.astimezone(UTC)
    return _calendar_window(period, utc.year, utc.month)


@functools.lru_cache(maxsize=4096)
def _calendar_window(period: Period, year: int, month: int) -> Window:
    """Cached: many customers have the same calendar, and a table takes most of the time of compiling."""
    return calendar_window(boundaries_of(period, year, month))


def boundaries_of(period: Period, year: int, month: int) -> list[int]:
    """The table that is made in a month of UTC: ascending starts, in Unix seconds, of 64 periods and the end of the last.
    A day starts at the zone's local midnight; where that does not exist, at the first instant after it. A month starts on
    its anchor day, or on its last day where it is shorter. A day that a zone skipped altogether (Apia, 2011-12-30) has no
    period."""
    tz = ZoneInfo(period.zone)
    # The local date may be a day away from the UTC date, and Redis' clock a little behind ours: each table begins early
    # enough for both.
    if period.kind == "month":
        anchor_day = 1 if period.anchor_day == CONTRACT else period.anchor_day
        first = (year - 1) * 12 + 10  # November of last year: an anchor on the 31st may reach into January
        months = range(first, first + PERIODS_AHEAD + 1)
        dates = [_anchored(number // 12, number % 12 + 1, anchor_day) for number in months]
    else:
        start = datetime(year, month, 1)  # noqa: DTZ001  (a local date, localised below)
        step, early = timedelta(days=1), timedelta(days=2)
        if period.kind == "week":
            step, early = timedelta(days=7), timedelta(days=7 + (start.weekday() - period.weekday) % 7)
        dates = [start - early + step * index for index in range(PERIODS_AHEAD + 1)]
    return sorted({_midnight_seconds(date, tz) for date in dates})


def _simplest(period: Period) -> Period:
    """Days and weeks of UTC have one length, so they need no table."""
    if period.zone not in ("UTC", "Etc/UTC") or period.kind not in ("day", "week"):
        return period
    if period.kind == "day":
        return Period("duration", length_seconds=_DAY_SECONDS)
    anchor = (_MONDAY_SECONDS + period.weekday * _DAY_SECONDS) % (7 * _DAY_SECONDS)
    return Period("duration", length_seconds=7 * _DAY_SECONDS, anchor_seconds=anchor)


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
