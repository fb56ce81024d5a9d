"""Committed usage → UsageBox.

An event is sent with the decision's id, so sending again is safe, and always the same bytes. The answer has counts only: a
batch with conflicts or rejections, and one that is refused whole, is halved until the culprit stands alone. A conflict
never ends by itself and is dead at once; what is refused for another reason gets TRIES, since a period may be opened
again. When nothing at all is taken, the fault is not an event's, and everything waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from spendgate_daemon.relays.backoff import Backoff
from spendgate_daemon.relays.metrics import DELIVERED
from spendgate_daemon.relays.store_relay import USAGE_SINK
from spendgate_daemon.store import Store
from spendgate_daemon.store.usage import UsageEventRow
from spendgate_daemon.usagebox import UsageBox, UsageBoxError, UsageBoxRefused, UsageEvent

BATCH: Final = 500
TRIES: Final = 8
EVENT_STATUSES: Final = frozenset({400, 409, 413, 422})
"""Refusals that may be about an event; any other (a wrong key, a wrong address) is about all of them."""

REFUSALS_MAX: Final = 24
"""Refusals of one run without anything taken: more than halving down to one bad event in BATCH needs."""

_log = structlog.get_logger("spendgate.relay.usagebox_usage")


class Run(msgspec.Struct):
    """What one run has met so far; `refused` are events that stood alone, with the fault."""

    delivered: int = 0
    dead: int = 0
    refusals: int = 0
    refused: list[tuple[UsageEventRow, str]] = []


class UsageBoxUsageRelay:
    """`source` is `spendgate/<install>`: it tells our own usage from everybody else's."""

    def __init__(self, store: Store, usagebox: UsageBox, source: str, now_us: Callable[[], int]) -> None:
        self._store = store
        self._usagebox = usagebox
        self._source = source
        self._now_us = now_us
        self._backoff = Backoff()

    async def run_once(self) -> int:
        """Send the oldest BATCH that are due; how many reached their end, delivered or dead."""
        if self._backoff.holds(self._now_us()):
            return 0
        due = await asyncio.to_thread(self._store.deliveries.due, USAGE_SINK, self._now_us(), BATCH)
        if not due:
            return 0
        tries = {delivery.position: delivery.attempts + 1 for delivery in due}
        rows = await asyncio.to_thread(self._store.usage.by_positions, list(tries))
        await self._mark(rows, "attempted", attempted=True)
        run = Run()
        try:
            await self._send(rows, run)
        except UsageBoxError as exc:
            error = f"{type(exc).__name__}: {exc}"[:500]
            due_us = self._backoff.fail(self._now_us(), exc)
            await self._mark(
                rows, "attempted", next_attempt_us=due_us, error=error
            )  # what has reached its end stays so
            _log.warning(
                "UsageBox did not take a batch", events=len(rows), error=error, failures=self._backoff.failures
            )
            DELIVERED.labels(USAGE_SINK, "retried").inc(len(rows) - run.delivered - run.dead)
            return run.delivered + run.dead
        self._backoff.succeed()
        for row, fault in run.refused:
            await self._set_aside(row, fault, tries[row.position], run)
        return run.delivered + run.dead

    async def _send(self, rows: Sequence[UsageEventRow], run: Run) -> None:
        conflict = False
        try:
            result = await self._usagebox.send_usage([self._event(row) for row in rows])
        except UsageBoxRefused as exc:
            if exc.status not in EVENT_STATUSES:
                raise
            fault = str(exc)[:500]
            run.refusals += 1
            if run.refusals > REFUSALS_MAX and not run.delivered:
                raise
        else:
            if not result.conflicts and not result.rejected:
                await self._mark(rows, "delivered")
                DELIVERED.labels(USAGE_SINK, "delivered").inc(len(rows))
                run.delivered += len(rows)
                return
            conflict = bool(result.conflicts)
            fault = "rejected: UsageBox refused the event, or its period is closed"
            if result.rejected == len(rows):
                run.refused += [(row, fault) for row in rows]
                return
        if len(rows) > 1:
            halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
            # From both sides in turn: bad events in a row are no reason to think that all are bad.
            for half in reversed(halves) if run.refusals % 2 else halves:
                await self._send(half, run)
        elif conflict:
            await self._bury(rows[0], "conflict: UsageBox has another event with this id", run)
        else:
            run.refused.append((rows[0], fault))

    async def _set_aside(self, row: UsageEventRow, fault: str, tries: int, run: Run) -> None:
        if tries >= TRIES:
            await self._bury(row, fault, run)
            return
        due_us = self._now_us() + Backoff.wait_us(tries)
        await self._mark([row], "attempted", next_attempt_us=due_us, error=fault)
        DELIVERED.labels(USAGE_SINK, "retried").inc()

    async def _bury(self, row: UsageEventRow, cause: str, run: Run) -> None:
        await self._mark([row], "dead", error=cause)
        DELIVERED.labels(USAGE_SINK, "dead").inc()
        _log.error("UsageBox refused an event", event_id=row.event_id, cause=cause)
        run.dead += 1

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
