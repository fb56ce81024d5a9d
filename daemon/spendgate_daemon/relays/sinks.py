"""What waits for each sink, and how long, as numbers that an alarm can watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spendgate_daemon.relays.metrics import SINK_DEAD, SINK_LAG, SINK_WAITING
from spendgate_daemon.store import Store


class SinkGauges:
    def __init__(self, store: Store, now_us: Callable[[], int]) -> None:
        self._store = store
        self._now_us = now_us

    async def run_once(self) -> int:
        """Measure all sinks; how many there are."""
        sinks = await asyncio.to_thread(self._store.deliveries.sinks)
        now_us = self._now_us()
        for sink in sinks:
            oldest_us = sink.oldest_pending_at_us
            SINK_WAITING.labels(sink.sink).set(sink.pending + sink.attempted)
            SINK_DEAD.labels(sink.sink).set(sink.dead)
            SINK_LAG.labels(sink.sink).set(max(0, now_us - oldest_us) / 1_000_000 if oldest_us is not None else 0)
        return len(sinks)
