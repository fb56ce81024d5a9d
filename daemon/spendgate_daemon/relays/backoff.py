"""How long a sink that fails is left alone: twice as long each time, as long as it asks for, never longer than a minute
of our own accord."""

from __future__ import annotations

from typing import Final

from spendgate_daemon.usagebox import UsageBoxError, UsageBoxUnavailable

MAX_WAIT_SECONDS: Final = 60
MAX_ASKED_SECONDS: Final = 3600


class Backoff:
    """Of one sink; `failures` are those since the last success."""

    def __init__(self) -> None:
        self.failures = 0
        self._until_us = 0

    @staticmethod
    def wait_us(failures: int) -> int:
        """After the first failure half a second; at most MAX_WAIT_SECONDS."""
        return min(MAX_WAIT_SECONDS * 1_000_000, 500_000 << min(failures - 1, 10))

    def holds(self, now_us: int) -> bool:
        return now_us < self._until_us

    def fail(self, now_us: int, error: UsageBoxError) -> int:
        """Note a failure; returns when to try again."""
        self.failures += 1
        asked = error.retry_after_seconds if isinstance(error, UsageBoxUnavailable) else None
        asked_us = int(min(MAX_ASKED_SECONDS, max(0.0, asked or 0.0)) * 1_000_000)
        self._until_us = now_us + max(self.wait_us(self.failures), asked_us)
        return self._until_us

    def succeed(self) -> None:
        self.failures = 0
