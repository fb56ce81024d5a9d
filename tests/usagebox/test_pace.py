"""The pace of requests, in virtual time: pauses hold for everybody, reads follow what UsageBox bears."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from spendgate_daemon.usagebox.errors import UsageBoxHeld
from spendgate_daemon.usagebox.pace import FIRST_RATE, MIN_RATE, UNSTATED_SECONDS, Pace, retry_after_seconds


class Time:
    now = 50.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def pace(time):
    return Pace(time, time.sleep)


def read(pace, times):
    async def reads():
        for _ in range(times):
            await pace.turn()
            pace.took()

    asyncio.run(reads())


def test_reads_keep_to_the_rate(pace, time):
    pace.rate, started = 10.0, time.now
    read(pace, 11)
    # Ten waits; the rate grows a little with each of them.
    assert 0.9 < time.now - started < 1.0


def test_a_rate_that_is_the_limit_grows_by_one_a_second(pace, time):
    pace.rate, started = 10.0, time.now
    read(pace, 200)
    assert pace.rate == pytest.approx(10 + (time.now - started), rel=0.05)


def test_a_rate_that_is_not_needed_stays(pace, time):
    for _ in range(100):
        read(pace, 1)
        time.now += 1
    assert pace.rate == FIRST_RATE


def test_nobody_sends_before_a_push_back_ends(pace, time):
    pace.pushed_back(7)
    for call in (pace.check, lambda: asyncio.run(pace.turn())):
        with pytest.raises(UsageBoxHeld) as held:
            call()
        assert held.value.retry_after_seconds == pytest.approx(7)
    time.now += 6.99
    with pytest.raises(UsageBoxHeld):
        pace.check()
    time.now += 0.01
    pace.check()


def test_a_push_back_halves_the_rate_once_a_moment(pace, time):
    for _ in range(5):
        pace.pushed_back(2)
    assert pace.rate == FIRST_RATE / 2
    time.now += 2
    pace.pushed_back(2)
    assert pace.rate == FIRST_RATE / 4
    for _ in range(100):
        time.now += 2
        pace.pushed_back(2)
    assert pace.rate == MIN_RATE


def test_a_shorter_push_back_does_not_shorten_a_longer_one(pace, time):
    pace.pushed_back(30)
    pace.pushed_back(1)
    time.now += 29
    with pytest.raises(UsageBoxHeld):
        pace.check()


def test_one_that_does_not_say_for_how_long_is_a_short_one(pace, time):
    pace.pushed_back(None)
    with pytest.raises(UsageBoxHeld):
        pace.check()
    time.now += UNSTATED_SECONDS
    pace.check()


def test_a_pause_that_comes_while_a_read_waits_for_its_turn_holds_it(time):
    pace = Pace(time, lambda _: pushed())
    pace.rate = 1.0

    async def pushed():
        pace.pushed_back(5)

    async def two():
        await pace.turn()
        await pace.turn()

    with pytest.raises(UsageBoxHeld):
        asyncio.run(two())


def test_reads_that_would_wait_long_are_refused_so_that_they_do_not_pile_up(pace):
    pace.rate = 1.0

    async def many():
        return await asyncio.gather(*(pace.turn() for _ in range(100)), return_exceptions=True)

    pace._sleep = lambda _: asyncio.sleep(0)
    refused = [error for error in asyncio.run(many()) if isinstance(error, UsageBoxHeld)]
    assert len(refused) == 89


NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Mon, 30 Nov 2026 12:01:30 GMT", 90.0),
        ("Monday, 30-Nov-26 12:01:30 GMT", 90.0),
        ("Mon, 30 Nov 2026 11:59:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("nan", None),
        ("inf", None),
        ("²", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_seconds(value, NOW) == seconds
