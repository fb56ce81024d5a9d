"""The circuit breaker, in virtual time."""

from __future__ import annotations

import pytest

from spendgate_daemon.usagebox.breaker import FAILURES_MAX, FIRST_OPEN_SECONDS, MAX_OPEN_SECONDS, Breaker
from spendgate_daemon.usagebox.errors import UsageBoxHeld


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker(clock)


def fail(breaker, times=1):
    for _ in range(times):
        breaker.settle("failed", probe=breaker.admit())


def open_it(breaker):
    fail(breaker, FAILURES_MAX)


def test_it_opens_at_the_last_of_so_many_failures_in_a_row(breaker):
    fail(breaker, FAILURES_MAX - 1)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"
    with pytest.raises(UsageBoxHeld):
        breaker.admit()


def test_an_answer_in_between_begins_the_count_anew(breaker):
    fail(breaker, FAILURES_MAX - 1)
    breaker.settle("answered", probe=breaker.admit())
    fail(breaker, FAILURES_MAX - 1)
    assert breaker.state == "closed"


def test_half_open_lets_one_find_out_and_nobody_else(breaker, clock):
    open_it(breaker)
    clock.now += FIRST_OPEN_SECONDS
    assert breaker.state == "half_open"
    assert breaker.admit() is True
    with pytest.raises(UsageBoxHeld):
        breaker.admit()
    breaker.settle("answered", probe=True)
    assert breaker.state == "closed"
    assert breaker.admit() is False


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_bound(breaker, clock):
    open_it(breaker)
    for expected in (2, 4, 8, 16, MAX_OPEN_SECONDS, MAX_OPEN_SECONDS):
        clock.now = breaker._open_until
        fail(breaker)
        clock.now += expected * FIRST_OPEN_SECONDS - 0.001
        assert breaker.state == "open"
        clock.now += 0.001
        assert breaker.state == "half_open"


def test_a_probe_that_was_cancelled_makes_room_for_another(breaker, clock):
    open_it(breaker)
    clock.now += FIRST_OPEN_SECONDS
    breaker.settle("cancelled", probe=breaker.admit())
    assert breaker.admit() is True


def test_late_failures_of_requests_from_before_say_nothing_new(breaker, clock):
    probes = [breaker.admit() for _ in range(FAILURES_MAX + 20)]
    for probe in probes:
        breaker.settle("failed", probe=probe)
    clock.now += FIRST_OPEN_SECONDS
    assert breaker.state == "half_open"
    assert breaker.admit() is True
    breaker.settle("failed", probe=False)
    assert breaker.state == "half_open", "the probe is still under way"
    with pytest.raises(UsageBoxHeld):
        breaker.admit()
