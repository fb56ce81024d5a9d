"""How a document writes durations, rates, percentages, instants and zones → whole numbers, or None for anything else."""

from __future__ import annotations

import functools
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import available_timezones

MAX_DURATION_SECONDS: Final = 3650 * 86_400

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE_US = {"s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "day": 86_400_000_000}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})([smhd])")
_RATE = re.compile(r"([1-9][0-9_]{0,15})/(s|min|h|day)")
_PERCENT = re.compile(r"(100|[1-9]?[0-9])%")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration_seconds(text: str) -> int | None:
    """Seconds of `5h`, `90m`, `30s`, `2d`, `0s`; None when the text is no duration of at most ten years."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    seconds = int(match[1]) * _SECONDS[match[2]]
    return seconds if seconds <= MAX_DURATION_SECONDS else None


def parse_rate(text: str) -> tuple[int, int, int] | None:
    """(units, per_us) in lowest terms, and the number of units as written; None when the text is no rate."""
    match = _RATE.fullmatch(text)
    if match is None:
        return None
    number, per_us = int(match[1].replace("_", "")), _RATE_US[match[2]]
    divisor = math.gcd(number, per_us)
    return number // divisor, per_us // divisor, number


def parse_percent(text: str) -> int | None:
    """The whole number of `1%`, from 0 to 100."""
    match = _PERCENT.fullmatch(text)
    return int(match[1]) if match is not None else None


def parse_instant_us(text: str) -> int | None:
    """Unix microseconds of an RFC 3339 instant with its zone. None also for one that never was, as on 30 February."""
    if _INSTANT.fullmatch(text) is None:
        return None
    try:
        instant = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return (instant - _EPOCH) // timedelta(microseconds=1)


def is_zone(name: str) -> bool:
    """Whether this is an IANA time zone. `localtime` is none: it differs from machine to machine."""
    return name in _zones()


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime"})
