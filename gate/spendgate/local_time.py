"""Instants as people of a time zone read them."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def local_text(instant_us: int, zone: str) -> str:
    """`2026-12-01 00:00 Europe/Berlin (UTC+01:00)`: rounded up to whole seconds, which are told when they aren't 0.

    `zone` is an IANA name. For one that this machine does not know, the time is UTC's and says so. The offset tells the
    two hours apart that a clock shows twice a year.
    """
    instant = _EPOCH + timedelta(seconds=-(-instant_us // 1_000_000))
    found = _zone_of(zone)
    local = instant.astimezone(found or UTC)
    clock = f"{local:%Y-%m-%d %H:%M:%S}" if local.second else f"{local:%Y-%m-%d %H:%M}"
    return f"{clock} {zone} (UTC{local.isoformat()[19:]})" if found is not None else f"{clock} UTC"


@functools.lru_cache(maxsize=1024)
def _zone_of(name: str) -> tzinfo | None:
    """None for UTC, and for what is no zone here."""
    if name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
