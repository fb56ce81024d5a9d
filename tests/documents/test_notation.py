"""How a document writes durations, rates, percentages and instants; anything else is told apart, never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendgate_daemon.documents.notation import (
    is_zone,
    parse_duration_seconds,
    parse_instant_us,
    parse_percent,
    parse_rate,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5h", 18_000), ("90m", 5_400), ("30s", 30), ("30d", 2_592_000), ("0s", 0), ("3650d", 3650 * 86_400)],
)
def test_durations(text, seconds):
    assert parse_duration_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["1.5h", "-5h", "5 h", "5", "h", "3651d", "5h ", "5h\n", "05h", "\u0665h", "month", ""]
)
def test_what_is_no_duration(text):
    assert parse_duration_seconds(text) is None


def test_rates_are_in_lowest_terms():
    assert parse_rate("100000/min") == (1, 600, 100_000)
    assert parse_rate("1/day") == (1, 86_400_000_000, 1)
    assert parse_rate("0/min") is None


@given(st.integers(0, 100))
def test_percentages_are_whole_and_at_most_a_hundred(percent):
    assert parse_percent(f"{percent}%") == percent


@pytest.mark.parametrize("text", ["1", "101%", "-1%", "1.5%", "01%", "1 %", "%", "1%\n", "\u0661%"])
def test_what_is_no_percentage(text):
    assert parse_percent(text) is None


@pytest.mark.parametrize(
    ("text", "instant_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t01:00:00.5+01:00", 500_000),
        ("1969-12-31T23:59:59Z", -1_000_000),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200_000_000),
        ("2026-02-30T00:00:00Z", None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01", None),
        ("2026-01-01 00:00:00Z", None),
        ("yesterday", None),
    ],
)
def test_instants(text, instant_us):
    assert parse_instant_us(text) == instant_us


def test_zones_are_those_of_iana_and_the_same_on_every_machine():
    assert is_zone("Europe/Berlin")
    assert is_zone("UTC")
    for name in (
        "localtime",
        "posix/Europe/Berlin",
        "right/UTC",
        "europe/berlin",
        "CEST",
        "+02:00",
        "../UTC",
        "",
        "contract",
    ):
        assert not is_zone(name), name
