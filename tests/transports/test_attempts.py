"""Connection attempts: the first retry at once, then further and further apart, until one succeeds."""

from __future__ import annotations

import itertools

import pytest

from spendgate.transports.attempts import GAPS_SECONDS, Attempts


def claims(attempts: Attempts, milliseconds: range, *, fail: bool = True) -> list[int]:
    """When a caller that asks once a millisecond may try, each attempt failing at once."""
    made = []
    for millisecond in milliseconds:
        if attempts.claim(millisecond / 1000):
            made.append(millisecond)
            if fail:
                attempts.failed("nobody there")
    return made


def test_attempts_that_fail_get_rarer():
    made = claims(Attempts(), range(1000))
    gaps = [later - earlier for earlier, later in itertools.pairwise(made)]
    assert gaps == pytest.approx([1, 10, 20, 40, 80] + [100] * (len(gaps) - 5), abs=1)
    assert len(gaps) == 13


def test_a_success_makes_the_next_ones_free_again():
    attempts = Attempts()
    claims(attempts, range(1000))
    attempts.succeeded()
    assert claims(attempts, range(1000, 1005)) == [1000, 1001]


def test_while_redis_is_well_any_number_of_threads_may_connect():
    assert len(claims(Attempts(), range(100), fail=False)) == 100


def test_of_many_that_ask_while_redis_is_gone_one_may_try():
    attempts = Attempts()
    for _ in GAPS_SECONDS:
        attempts.failed("nobody there")
    assert [attempts.claim(5.0) for _ in range(50)].count(True) == 1


def test_the_reason_is_remembered():
    attempts = Attempts()
    attempts.failed("nobody there")
    assert attempts.last_error == "nobody there"
