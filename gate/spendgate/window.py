"""Periods: half-open windows [start, end) in whole Unix seconds.

Lua knows no time zones. A window of constant length is computed from its anchor; a calendar window (months, or
days and weeks in a zone with daylight saving) carries a table of its next boundaries, made when the policy is
compiled. An instant outside the table has no window: the policy is too old to be enforced.
"""

from __future__ import annotations

import bisect
import functools

import msgspec


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """Either `length_seconds` > 0 with `anchor_seconds`, or `boundaries`: ascending seconds, eight
    hexadecimal digits each (text, because the MessagePack in Redis knows no binary)."""

    length_seconds: int = 0
    anchor_seconds: int = 0
    boundaries: str = ""

    def rule(self) -> tuple[int, int | str]:
        """What the script reads: see periods.lua."""
        return (self.length_seconds, self.anchor_seconds) if self.length_seconds else (0, self.boundaries)

    def period_at(self, now_us: int) -> tuple[int, int] | None:
        """Start and end, in seconds, of the period that contains `now_us`; None when the table is exhausted."""
        now_seconds = now_us // 1_000_000
        if self.length_seconds:
            start = now_seconds - (now_seconds - self.anchor_seconds) % self.length_seconds
            return start, start + self.length_seconds
        table = _unpack(self.boundaries)
        after = bisect.bisect_right(table, now_seconds)
        if after == 0 or after == len(table):
            return None
        return table[after - 1], table[after]


def calendar_window(boundaries_seconds: list[int]) -> Window:
    """A window from at least two ascending boundaries; the last one is the end of the last period."""
    return Window(boundaries="".join(f"{boundary:08x}" for boundary in boundaries_seconds))


@functools.lru_cache(maxsize=4096)
def _unpack(boundaries: str) -> tuple[int, ...]:
    return tuple(int(boundaries[at : at + 8], 16) for at in range(0, len(boundaries), 8))
