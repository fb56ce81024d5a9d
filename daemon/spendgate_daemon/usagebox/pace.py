"""How fast UsageBox may be asked: nobody before a 429's end, and reads at a rate that follows what it bears.

The rate grows by one a second for each second in which it was the limit (additive increase), and halves at a push-back
(multiplicative decrease); several push-backs of one moment count once. What is sent (usage, flags) isn't held by the rate:
it would only pile up here instead of in the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from spendgate_daemon.usagebox.errors import UsageBoxHeld

FIRST_RATE: Final = 100.0
MIN_RATE: Final = 0.5
MAX_RATE: Final = 500.0
TURN_MAX_SECONDS: Final = 10.0
"""A read that would wait longer for its turn is refused, so that waiting reads are bounded."""

UNSTATED_SECONDS: Final = 1.0
"""Pause after a 429 that doesn't say for how long."""

PAUSE_MAX_SECONDS: Final = 3600.0


class Pace:
    """Reads a second in `rate`. `check` before anything is sent, `turn` before a read."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.rate = FIRST_RATE
        self._now = now
        self._sleep = sleep
        self._paused_until = 0.0
        self._next_turn = 0.0
        self._limited = False

    def check(self) -> None:
        """Raises UsageBoxHeld until the pause that UsageBox asked for is over."""
        wait = self._paused_until - self._now()
        if wait > 0:
            raise UsageBoxHeld(f"UsageBox asked to be left alone for {wait:.1f} more seconds", wait)

    async def turn(self) -> None:
        """Wait for a read's turn. Raises UsageBoxHeld when that would be long, or when a pause came meanwhile."""
        self.check()
        now = self._now()
        at = max(now, self._next_turn)
        if at - now > TURN_MAX_SECONDS:
            raise UsageBoxHeld(f"reads wait for their turn, {self.rate:.1f} a second", at - now)
        self._next_turn = at + 1 / self.rate
        self._limited = at > now
        if self._limited:
            await self._sleep(at - now)
            self.check()

    def took(self) -> None:
        """A read was answered."""
        if self._limited:
            self.rate = min(MAX_RATE, self.rate + 1 / self.rate)

    def pushed_back(self, seconds: float | None) -> None:
        """A 429, or a 503 that says when to come back. None: it doesn't say."""
        now = self._now()
        if now >= self._paused_until:
            self.rate = max(MIN_RATE, self.rate / 2)
        wait = UNSTATED_SECONDS if seconds is None else min(seconds, PAUSE_MAX_SECONDS)
        self._paused_until = max(self._paused_until, now + wait)


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds of a `Retry-After` header: whole seconds or an HTTP date (RFC 9110, section 10.2.3). None for anything else;
    a date that is past is 0."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, (at - now).total_seconds())
