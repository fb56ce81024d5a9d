"""Calendar periods: each starts at a local midnight, whatever daylight saving and billing anchors do."""

from __future__ import annotations

import calendar
import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spendgate_daemon.documents.periods import boundaries_of, parse_duration_seconds, window_of

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ZONES = sorted(available_timezones() - {"localtime"})
MOMENTS = st.datetimes(datetime(1995, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def period_containing(period, anchor_day, zone, now):
    return window_of(period, anchor_day, zone, now).period_at(int(now.timestamp()) * 1_000_000)


def first_day(period, anchor_day, day):
    """The definition, by counting days: the first day of the period that `day` is in."""
    if period == "day":
        return day
    if period == "week":
        return day - timedelta(days=day.weekday())
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
    starts = boundaries_of(period, anchor_day, zone, now)
    assert all(a < b for a, b in itertools.pairwise(starts))
    assert starts[0] < now.timestamp() - 43_200, "a clock that is a little behind still finds its period"
    assert starts[-1] > (now + timedelta(days=29)).timestamp()
    local = now.astimezone(ZoneInfo(zone))
    noon = local.replace(day=15, hour=12, fold=0)
    assert boundaries_of(period, anchor_day, zone, noon.astimezone(UTC)) == starts


def test_months_follow_the_billing_anchor_and_the_zone():
    starts = boundaries_of("month", 31, "America/New_York", NOW)
    local = [datetime.fromtimestamp(start, ZoneInfo("America/New_York")) for start in starts[:4]]
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
    assert window_of("day", 1, "UTC", NOW).length_seconds == 86_400
    start, end = period_containing("week", 1, "UTC", NOW)
    assert datetime.fromtimestamp(start, UTC) == datetime(2026, 11, 23, tzinfo=UTC)
    assert end - start == 7 * 86_400
    start, end = period_containing("5h", 1, "Europe/Berlin", NOW)
    assert end - start == 5 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"), [("5h", 18_000), ("90m", 5_400), ("60s", 60), ("30d", 2_592_000), ("59s", None), ("0h", None)]
)
def test_durations(text, seconds):
    assert parse_duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["1.5h", "-5h", "5 h", "5", "h", "9999999d", "5h ", "\u0665h"])
def test_what_is_no_duration(text):
    assert parse_duration_seconds(text) is None
