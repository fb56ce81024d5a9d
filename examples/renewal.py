"""Long runs: a reservation is extended while its run goes on, so that nothing of it is given away meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

from spendgate.run import Run


class Renewal:
    """Extends a run when half of its lifetime is over. `clock` gives seconds and never goes back."""

    def __init__(self, run: Run, lifetime_seconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._lifetime_seconds, self._clock = run, lifetime_seconds, clock
        self._due = clock() + lifetime_seconds / 2

    async def renew(self) -> None:
        """Call it often: it asks the gate only when it is due. Raises InvalidEvent beyond the plan's `max_lifetime`."""
        if self._clock() >= self._due:
            await self._run.extend(self._lifetime_seconds)
            self._due = self._clock() + self._lifetime_seconds / 2
