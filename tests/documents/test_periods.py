"""Calendar periods: each starts at a local midnight, whatever daylight saving and billing anchors do."""

from __future__ import annotations

import calendar
import itertools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spendgate.window import calendar_window
from spendgate_daemon.documents.document import QuotaRule
from spendgate_daemon.documents.periods import PERIODS_AHEAD, Period, boundaries_of, of_customer, period_of, window_of

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ZONES = sorted(available_timezones() - {"localtime"})
MOMENTS = st.datetimes(datetime(1995, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def calendar_period(kind, anchor, zone):
    """`anchor` is the day of a month, and makes the weekday of a week."""
    return Period(kind, zone=zone, anchor_day=anchor if kind == "month" else 1, weekday=anchor % 7 * (kind == "week"))


def rule(period, **fields):
    return QuotaRule(id="x", meter="runs", cap=1, period=period, **fields)


def window(period, now=NOW, **fields):
    return window_of(of_customer(period_of(rule(period, **fields), "UTC"), "UTC", 1), now)


def period_containing(kind, anchor, zone, now):
    return window_of(calendar_period(kind, anchor, zone), now).period_at(int(now.timestamp()) * 1_000_000)


def first_day(kind, anchor_day, day):
    """The definition, by counting days: the first day of the period that `day` is in."""
    if kind == "day":
        return day
    if kind == "week":
        while day.weekday() != anchor_day % 7:
            day -= timedelta(days=1)
        return day
    while day.day != min(anchor_day, calendar.monthrange(day.year, day.month)[1]):
        day -= timedelta(days=1)
    return day


@given(st.sampled_from(ZONES), MOMENTS, st.sampled_from(["month", "week", "day"]), st.integers(1, 31))
@example("America/Sao_Paulo", datetime(2018, 11, 4, 12, tzinfo=UTC), "day", 1)  # no midnight
@example("America/Havana", datetime(2025, 11, 2, 12, tzinfo=UTC), "day", 1)  # two midnights
@example("Pacific/Apia", datetime(2011, 12, 31, 12, tzinfo=UTC), "day", 1)  # the day before never was
def test_the_period_of_now_starts_on_its_first_day_and_ends_on_the_next_ones(zone, now, period, anchor_day):
    start, end = period_containing(period, anchor_day, zone, now)
    tz = ZoneInfo(zone)
    assert start <= now.timestamp() < end

    def expected(instant):
        return first_day(period, anchor_day, datetime.fromtimestamp(instant, tz).date())

    today = expected(now.timestamp())
    assert expected(start) == today
    assert expected(start - 1) < today
    assert expected(end - 1) == today
    assert expected(end) > today


@given(st.sampled_from(ZONES), MOMENTS, st.sampled_from(["month", "week", "day"]), st.integers(1, 31))
def test_tables_ascend_reach_a_month_ahead_and_are_the_same_all_month(zone, now, period, anchor_day):
    period_of_zone = calendar_period(period, anchor_day, zone)
    starts = boundaries_of(period_of_zone, now.year, now.month)
    assert all(a < b for a, b in itertools.pairwise(starts))
    assert len(starts) >= PERIODS_AHEAD, "all but a day that a zone skipped"
    assert starts[0] < now.timestamp() - 43_200, "a clock that is a little behind still finds its period"
    assert starts[-1] > (now + timedelta(days=29)).timestamp()
    for day in (1, 15, 28):
        other = datetime.combine(date(now.year, now.month, day), time(0), tzinfo=UTC)
        assert window_of(period_of_zone, other) == calendar_window(starts), "the UTC month decides alone"


@pytest.mark.parametrize("now", [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)], ids=str)
@pytest.mark.parametrize(("kind", "anchor"), [("day", 1), ("week", 6), ("month", 31)])
def test_every_zone_there_is_has_a_table_that_covers_now_and_ascends(kind, anchor, now):
    for zone in ZONES:
        starts = boundaries_of(calendar_period(kind, anchor, zone), now.year, now.month)
        assert starts[0] < now.timestamp() < starts[-1], zone
        assert all(a < b for a, b in itertools.pairwise(starts)), zone
        assert max(b - a for a, b in itertools.pairwise(starts)) <= 3600 * 26 * {"day": 1, "week": 7, "month": 31}[kind]


def test_months_follow_the_billing_anchor_and_the_zone():
    starts = boundaries_of(calendar_period("month", 31, "America/New_York"), NOW.year, NOW.month)
    local = [datetime.fromtimestamp(start, ZoneInfo("America/New_York")) for start in starts[1:5]]
    assert [moment.date() for moment in local] == [
        date(2025, 12, 31),
        date(2026, 1, 31),
        date(2026, 2, 28),
        date(2026, 3, 31),
    ]
    assert {moment.hour for moment in local} == {0}


@pytest.mark.parametrize(("day", "hours"), [(29, 23), (28, 24)])
def test_a_day_of_daylight_saving_is_shorter(day, hours):
    start, end = period_containing("day", 1, "Europe/Berlin", datetime(2026, 3, day, 12, tzinfo=UTC))
    assert end - start == hours * 3600


def test_a_midnight_that_the_clock_skips_is_the_jump_and_one_it_shows_twice_is_the_first():
    start, _ = period_containing("day", 1, "America/Sao_Paulo", datetime(2018, 11, 4, 12, tzinfo=UTC))
    assert datetime.fromtimestamp(start, UTC) == datetime(2018, 11, 4, 3, tzinfo=UTC)
    start, end = period_containing("day", 1, "America/Havana", datetime(2025, 11, 2, 12, tzinfo=UTC))
    assert datetime.fromtimestamp(start, UTC) == datetime(2025, 11, 2, 4, tzinfo=UTC)
    assert end - start == 25 * 3600


def test_days_and_weeks_of_utc_and_durations_need_no_table():
    assert window("day").length_seconds == 86_400
    start, end = window("week").period_at(int(NOW.timestamp()) * 1_000_000)
    assert datetime.fromtimestamp(start, UTC) == datetime(2026, 11, 23, tzinfo=UTC)
    assert end - start == 7 * 86_400
    assert window("5h").length_seconds == 5 * 3600
    assert window("30s").length_seconds == 30


@pytest.mark.parametrize(("weekday", "day"), [("monday", 23), ("tuesday", 24), ("wednesday", 18), ("sunday", 22)])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_a_week_starts_on_its_weekday(weekday, day, zone):
    start, _ = window("week", anchor_weekday=weekday, timezone=zone).period_at(int(NOW.timestamp()) * 1_000_000)
    local = datetime.fromtimestamp(start, ZoneInfo(zone))
    assert (local.date(), local.time()) == (date(2026, 11, day), time(0))


ANCHORS = st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.sampled_from(["5h", "90m", "30s", "2d", "7d"]), ANCHORS, MOMENTS)
def test_windows_of_a_duration_start_at_the_anchor_and_at_every_length_from_it(period, anchor, now):
    anchor = anchor.replace(microsecond=0)
    start, end = window(period, anchor=anchor.isoformat()).period_at(int(now.timestamp()) * 1_000_000)
    assert start <= now.timestamp() < end
    assert (start - int(anchor.timestamp())) % (end - start) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (rule("60m"), rule("1h")),
        (rule("24h"), rule("day")),
        (rule("day"), rule("day", timezone="Etc/UTC")),
        (rule("7d", anchor="1970-01-05T00:00:00Z"), rule("week")),
        (rule("7d", anchor="2026-11-22T01:00:00+01:00"), rule("week", anchor_weekday="sunday")),
        (rule("5h", anchor="1970-01-01T05:00:00Z"), rule("5h")),
    ],
)
def test_the_same_periods_in_other_words_are_equal(one, other):
    assert period_of(one, "UTC") == period_of(other, "UTC")
    assert window_of(period_of(one, "UTC"), NOW) == window_of(period_of(other, "UTC"), NOW)


def test_the_contract_puts_in_its_zone_and_its_billing_day():
    stated = period_of(rule("month", anchor_day="contract", timezone="contract"), "UTC")
    made = of_customer(stated, "Asia/Tokyo", 15)
    assert (made.zone, made.anchor_day) == ("Asia/Tokyo", 15)
    fixed = period_of(rule("month", anchor_day=3, timezone="Europe/Paris"), "UTC")
    assert of_customer(fixed, "Asia/Tokyo", 15) == fixed
    assert of_customer(period_of(rule("day"), "Europe/Paris"), "Asia/Tokyo", 15).zone == "Europe/Paris"
    assert of_customer(period_of(rule("day", timezone="contract"), "Europe/Paris"), "UTC", 1) == period_of(
        rule("day"), "UTC"
    )
