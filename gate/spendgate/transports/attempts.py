"""Spacing of connection attempts, so that a dead Redis is not hammered."""

from __future__ import annotations

from typing import Final

GAPS_SECONDS: Final = (0.0, 0.0, 0.01, 0.02, 0.04, 0.08, 0.1)
"""From one attempt to the next, by how many have failed in a row: the first retry is made at once."""


class Attempts:
    """Counts failures in a row. Threads may share one: while Redis fails, one of them tries at a time."""

    def __init__(self) -> None:
        self.last_error = ""
        self._failures = 0
        self._started_at = float("-inf")

    def claim(self, now_seconds: float) -> bool:
        """Whether an attempt may start now; if so, it counts as started."""
        gap = GAPS_SECONDS[min(self._failures, len(GAPS_SECONDS) - 1)]
        if now_seconds - self._started_at < gap:
            return False
        self._started_at = now_seconds
        return True

    def failed(self, error: str) -> None:
        self._failures += 1
        self.last_error = error

    def succeeded(self) -> None:
        self._failures = 0
