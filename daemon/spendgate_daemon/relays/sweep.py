"""What changes by the clock alone: periods reset, throttling and overrides end, and somebody has to say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from spendgate.control import SWEEP_BATCH, Control
from spendgate.keys import PARTITIONS
from spendgate_daemon.overrides import end_event, mirror_overrides
from spendgate_daemon.relays.metrics import SWEPT
from spendgate_daemon.store import Store

ROUNDS_MAX: Final = 1000
"""Of one partition in one run, which is 100,000 customers; the rest is left to the next run."""


class Sweep:
    """Refreshes due customers in every partition, so that one who obeys `billing.hard-stop` and stays away resumes."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def run_once(self) -> int:
        swept = 0
        for partition in range(PARTITIONS):
            for _ in range(ROUNDS_MAX):
                due = await self._control.sweep(partition)
                swept += due
                if due < SWEEP_BATCH:
                    break
        SWEPT.inc(swept)
        return swept


class OverrideExpiry:
    """Tells the end of overrides once. That they are void was decided in the script, at the instant itself."""

    def __init__(self, control: Control, store: Store, now_us: Callable[[], int]) -> None:
        self._control = control
        self._store = store
        self._now_us = now_us

    async def run_once(self) -> int:
        now_us = self._now_us()
        expired = await asyncio.to_thread(self._store.overrides.expired_untold, now_us)
        for override in expired:
            event = end_event(override, override.expires_at_us, "expired")
            await asyncio.to_thread(self._store.overrides.end, override.id, event)
            await mirror_overrides(self._control, self._store, override.customer_id, now_us)
        return len(expired)
