"""Committed usage → UsageBox.

An event is sent with the decision's id, so sending again is safe, and always the same bytes. The answer has counts only: a
batch with conflicts or rejections is halved until the culprit stands alone, which is set aside as dead with its cause and
holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from spendgate_daemon.relays.metrics import DELIVERED
from spendgate_daemon.relays.store_relay import USAGE_SINK
from spendgate_daemon.store import Store
from spendgate_daemon.store.usage import UsageEventRow
from spendgate_daemon.usagebox import UsageBox, UsageBoxError, UsageEvent

BATCH: Final = 500
MAX_BACKOFF_SECONDS: Final = 60

_log = structlog.get_logger("spendgate.relay.usagebox_usage")


class UsageBoxUsageRelay:
    """`source` is `spendgate/<install>`: it tells our own usage from everybody else's."""

    def __init__(self, store: Store, usagebox: UsageBox, source: str, now_us: Callable[[], int]) -> None:
        self._store = store
        self._usagebox = usagebox
        self._source = source
        self._now_us = now_us

    async def run_once(self) -> int:
        """Send the oldest BATCH that are due; how many reached their end, delivered or dead."""
        due = await asyncio.to_thread(self._store.deliveries.due, USAGE_SINK, self._now_us(), BATCH)
        if not due:
            return 0
        rows = await asyncio.to_thread(self._store.usage.by_positions, [delivery.position for delivery in due])
        await self._mark(rows, "attempted", attempted=True)
        attempts = max(delivery.attempts for delivery in due) + 1
        try:
            return await self._send(rows)
        except UsageBoxError as exc:
            wait_us = min(MAX_BACKOFF_SECONDS, 2 ** min(attempts, 10) // 2) * 1_000_000
            error = f"{type(exc).__name__}: {exc}"[:500]
            remaining = await asyncio.to_thread(self._still_waiting, rows)
            await self._mark(remaining, "attempted", next_attempt_us=self._now_us() + wait_us, error=error)
            _log.warning("UsageBox did not take a batch", events=len(remaining), error=error, attempt=attempts)
            DELIVERED.labels(USAGE_SINK, "retried").inc(len(remaining))
            return 0

    async def _send(self, rows: Sequence[UsageEventRow]) -> int:
        result = await self._usagebox.send_usage([self._event(row) for row in rows])
        if not result.conflicts and not result.rejected:
            await self._mark(rows, "delivered")
            DELIVERED.labels(USAGE_SINK, "delivered").inc(len(rows))
            return len(rows)
        if len(rows) > 1:
            middle = len(rows) // 2
            return await self._send(rows[:middle]) + await self._send(rows[middle:])
        cause = (
            "conflict: UsageBox has another event with this id"
            if result.conflicts
            else "rejected: UsageBox refused the event, or its period is closed"
        )
        await self._mark(rows, "dead", error=cause)
        DELIVERED.labels(USAGE_SINK, "dead").inc()
        _log.error("UsageBox refused an event", event_id=rows[0].event_id, cause=cause)
        return 1

    def _event(self, row: UsageEventRow) -> UsageEvent:
        return UsageEvent(
            event_id=row.event_id,
            account_id=row.customer_id,
            meter_id=row.meter,
            quantity=row.quantity,
            unit=row.unit,
            timestamp_ms=row.at_us // 1000,
            source=self._source,
            model_id=row.model,
        )

    def _still_waiting(self, rows: Sequence[UsageEventRow]) -> list[UsageEventRow]:
        states = {d.position: d.state for d in self._store.deliveries.of_item([row.event_id for row in rows])}
        return [row for row in rows if states.get(row.position) == "attempted"]

    async def _mark(
        self,
        rows: Sequence[UsageEventRow],
        state: str,
        *,
        next_attempt_us: int = 0,
        error: str | None = None,
        attempted: bool = False,
    ) -> None:
        positions = [row.position for row in rows]
        await asyncio.to_thread(
            lambda: self._store.deliveries.mark(
                USAGE_SINK, positions, state, next_attempt_us=next_attempt_us, error=error, attempted=attempted
            )
        )
