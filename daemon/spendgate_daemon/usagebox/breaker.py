"""A circuit breaker: after FAILURES_MAX in a row nobody is sent for a while, then one request finds out.

A failure is no answer or a 5xx; any other answer, a refusal too, shows that somebody is there. One event loop uses it, so
there is no lock; libraries for this bring listeners, registries and threads, and are longer than it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

from spendgate_daemon.usagebox.errors import UsageBoxHeld

FAILURES_MAX: Final = 5
FIRST_OPEN_SECONDS: Final = 1.0
MAX_OPEN_SECONDS: Final = 30.0

BreakerState = Literal["closed", "half_open", "open"]
Outcome = Literal["answered", "failed", "cancelled"]


class Breaker:
    """`admit` before each request, `settle` after it, whatever became of it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures = 0
        self._open_seconds = 0.0
        self._open_until = 0.0
        self._probing = False

    @property
    def state(self) -> BreakerState:
        if not self._open_seconds:
            return "closed"
        return "open" if self._now() < self._open_until else "half_open"

    def admit(self) -> bool:
        """Whether the request is the one that finds out. Raises UsageBoxHeld while there must be none, or no second."""
        state = self.state
        if state == "open" or (state == "half_open" and self._probing):
            wait = max(self._open_until - self._now(), FIRST_OPEN_SECONDS)
            raise UsageBoxHeld(f"UsageBox failed {self._failures} times in a row and is left alone", wait)
        self._probing = state == "half_open"
        return self._probing

    def settle(self, outcome: Outcome, *, probe: bool) -> None:
        """Those that were under way when it opened say nothing new by failing."""
        if probe:
            self._probing = False
        if outcome == "answered":
            self._failures, self._open_seconds = 0, 0.0
        elif outcome == "failed" and (probe or not self._open_seconds):
            self._failures += 1
            if probe or self._failures >= FAILURES_MAX:
                self._open_seconds = min(MAX_OPEN_SECONDS, self._open_seconds * 2 or FIRST_OPEN_SECONDS)
                self._open_until = self._now() + self._open_seconds
