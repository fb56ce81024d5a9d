"""Committed usage → UsageBox.

An event is sent with the decision's id, so sending again is safe, and always the same bytes; what was tried long ago is
looked up first. The answer has counts only: a batch with conflicts or rejections, and one that is refused whole, is halved
until the culprit stands alone. A conflict never ends by itself and is dead at once; what is refused because its period is
closed is sent as a correction, once UsageBox has said that it doesn't have it from an attempt whose answer was lost; what is
refused for another reason gets TRIES, since a period may be opened again. When nothing at all is taken, of nobody, the fault is
not an event's, and everything waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from spendgate_daemon.relays.backoff import Backoff
from spendgate_daemon.relays.batching import Batching
from spendgate_daemon.relays.metrics import DELIVERED
from spendgate_daemon.relays.store_relay import USAGE_SINK
from spendgate_daemon.relays.usagebox_corrections import CORRECTION_SUFFIX, correction_of, in_closed_periods
from spendgate_daemon.relays.usagebox_lookup import is_old, look_up
from spendgate_daemon.store import Store
from spendgate_daemon.store.deliveries import Delivery
from spendgate_daemon.store.usage import UsageEventRow
from spendgate_daemon.usagebox import (
    CorrectionRef,
    NotInDialect,
    UsageBox,
    UsageBoxError,
    UsageBoxRefused,
    UsageEvent,
)

BATCH: Final = 500
AT_ONCE: Final = Batching(BATCH, 0)
TRIES: Final = 8
EVENT_STATUSES: Final = frozenset({400, 409, 413, 422})
"""Refusals that may be about an event; any other (a wrong key, a wrong address) is about all of them."""

NO_LOOK_UP_STATUSES: Final = frozenset({400, 404, 405, 422})
"""Refusals of a look-up that will stay: this UsageBox has no such question, or no such customer."""

CONFLICT: Final = "conflict: UsageBox has another event with this id"
NO_CORRECTIONS: Final = "its period is closed, and this UsageBox takes no corrections"
REJECTED: Final = "rejected: UsageBox refused the event"

REFUSALS_MAX: Final = 24
"""Refusals of one run without anything taken: more than halving down to one bad event in BATCH needs."""

_log = structlog.get_logger("spendgate.relay.usagebox_usage")


class AllRefused(UsageBoxRefused):
    """Nothing of a batch was taken, however small its parts."""


class Run(msgspec.Struct):
    """What one run has met so far; `refused` are events that stood alone, with the fault. `corrects`: it sends
    corrections. `attempted` are positions of what was sent before, by another run; `again` are those of them that a person,
    or the books, want to be sent once more."""

    attempted: frozenset[int] = frozenset()
    again: frozenset[int] = frozenset()
    corrects: bool = False
    delivered: int = 0
    dead: int = 0
    refusals: int = 0
    refused: list[tuple[UsageEventRow, str]] = []


class UsageBoxUsageRelay:
    """`source` is `spendgate/<install>`: it tells our own usage from everybody else's."""

    def __init__(
        self,
        store: Store,
        usagebox: UsageBox,
        source: str,
        now_us: Callable[[], int],
        batching: Batching = AT_ONCE,
    ) -> None:
        self._store = store
        self._usagebox = usagebox
        self._source = source
        self._now_us = now_us
        self._batching = batching
        self._backoff = Backoff()

    async def run_once(self) -> int:
        """Send the oldest that are due, if it is time for a batch; how many reached their end, delivered or dead."""
        now_us = self._now_us()
        if self._backoff.holds(now_us):
            return 0
        due = await asyncio.to_thread(self._store.deliveries.due, USAGE_SINK, now_us, self._batching.size)
        if not due or not self._batching.leaves(len(due), min(each.created_at_us for each in due), now_us):
            return 0
        tries = {delivery.position: delivery.attempts + 1 for delivery in due}
        rows = await asyncio.to_thread(self._store.usage.by_positions, list(tries))
        before = [each for each in due if each.first_attempt_us is not None or each.attempts]
        run = Run(
            attempted=frozenset(each.position for each in before),
            again=frozenset(each.position for each in before if not each.attempts),
        )
        try:
            rows = await self._without_known(rows, due, run)
            await self._mark(rows, "attempted", attempted_at_us=self._now_us())
            await self._send([row for row in rows if row.corrects is None], run)
            await self._send_corrections([row for row in rows if row.corrects is not None], run)
        except UsageBoxError as exc:
            if isinstance(exc, AllRefused) and await self._takes_others(rows, run):
                await self._let_others_pass(rows, tries, str(exc), run)
                return run.delivered + run.dead
            error = f"{type(exc).__name__}: {exc}"[:500]
            due_us = self._backoff.fail(self._now_us(), exc)
            # What has reached its end stays so.
            await self._mark(rows, "attempted", next_attempt_us=due_us, error=error)
            _log.warning(
                "UsageBox did not take a batch", events=len(rows), error=error, failures=self._backoff.failures
            )
            DELIVERED.labels(USAGE_SINK, "retried").inc(len(rows) - run.delivered - run.dead)
            return run.delivered + run.dead
        self._backoff.succeed()
        await self._correct(run)
        for row, fault in run.refused:
            await self._set_aside(row, fault, tries[row.position], run)
        return run.delivered + run.dead

    async def _without_known(
        self, rows: Sequence[UsageEventRow], due: Sequence[Delivery], run: Run
    ) -> list[UsageEventRow]:
        """What is to be sent now: not what UsageBox has from an attempt long ago, nor what has still to be looked up."""
        newest = await asyncio.to_thread(self._store.usage.newest_position)
        now_us = self._now_us()
        old_positions = {each.position for each in due if is_old(each, newest, now_us)}
        old = [row for row in rows if row.position in old_positions]
        to_send = {row.position for row in await self._missing(old, run)}
        return [row for row in rows if row.position not in old_positions or row.position in to_send]

    async def _missing(self, rows: Sequence[UsageEventRow], run: Run) -> list[UsageEventRow]:
        """Those that UsageBox says it does not have; what it has is delivered, what it can't tell of is dead at first, and
        what it wasn't asked about yet waits."""
        if not rows:
            return []
        try:
            found = await look_up(self._usagebox, rows, self._event)
        except UsageBoxRefused as exc:
            if exc.status not in NO_LOOK_UP_STATUSES:
                raise
            for row in (row for row in rows if row.position not in run.again):
                await self._bury(row, f"tried before, and UsageBox can't say whether it has it: {exc}"[:500], run)
            return [row for row in rows if row.position in run.again]  # where nobody can be asked, a person decides
        await self._deliver(found.delivered, run)
        await self._deliver(found.corrected, run, corrected=True)
        for row in found.conflicting:
            await self._bury(row, CONFLICT, run)
        return found.missing

    async def _takes_others(self, rows: Sequence[UsageEventRow], run: Run) -> bool:
        """Whether UsageBox takes an event of a customer who isn't among these, so that the fault is theirs."""
        customers = {row.customer_id for row in rows}
        position = await asyncio.to_thread(
            self._store.deliveries.first_of_others, USAGE_SINK, customers, self._now_us()
        )
        if position is None:
            return False
        other = await asyncio.to_thread(self._store.usage.by_positions, [position])
        await self._mark(other, "attempted", attempted_at_us=self._now_us())
        try:
            result = await self._usagebox.send_usage([self._event(row) for row in other])
        except UsageBoxError:
            return False
        if result.conflicts or result.rejected:
            return False
        await self._deliver(other, run)
        return True

    async def _let_others_pass(
        self, rows: Sequence[UsageEventRow], tries: dict[int, int], fault: str, run: Run
    ) -> None:
        """A try for each event that stood alone; the others of the batch, which were not tried by themselves, only wait."""
        due_us = self._now_us() + Backoff.wait_us(max(tries.values()))
        await self._mark(rows, "attempted", next_attempt_us=due_us, error=fault)
        for row, own_fault in run.refused:
            await self._set_aside(row, own_fault, tries[row.position], run)
        _log.warning("UsageBox refused all of a batch, and takes others", events=len(rows), error=fault)

    async def _send(self, rows: Sequence[UsageEventRow], run: Run) -> None:
        fault = await self._fault(rows, run) if rows else None
        if fault is None:
            return
        if len(rows) > 1:
            halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
            # From both sides in turn: bad events in a row are no reason to think that all are bad.
            for half in reversed(halves) if run.refusals % 2 else halves:
                await self._send(half, run)
        elif fault == CONFLICT:
            await self._bury(rows[0], CONFLICT, run)
        else:
            run.refused.append((rows[0], fault))

    async def _send_corrections(self, rows: Sequence[UsageEventRow], run: Run) -> None:
        """What somebody put right. A dialect without words for it must not hold up the usage beside it."""
        try:
            await self._send(rows, run)
        except NotInDialect as exc:
            for row in rows:
                await self._bury(row, str(exc), run)

    async def _fault(self, rows: Sequence[UsageEventRow], run: Run) -> str | None:
        """Send these. Why some of them were not taken; None when each has been dealt with."""
        try:
            result = await self._usagebox.send_usage([self._event(row, corrects=run.corrects) for row in rows])
        except NotInDialect:
            raise  # which halving won't change
        except UsageBoxRefused as exc:
            if exc.status not in EVENT_STATUSES:
                raise
            run.refusals += 1
            if run.refusals > REFUSALS_MAX and not run.delivered:
                raise AllRefused(str(exc)[:500], exc.status) from exc
            return str(exc)[:500]
        if not result.conflicts and not result.rejected:
            await self._deliver(rows, run, corrected=run.corrects)
            return None
        if result.rejected == len(rows):
            run.refused += [(row, REJECTED) for row in rows]
            return None
        return CONFLICT if result.conflicts else REJECTED

    async def _correct(self, run: Run) -> None:
        """Send as corrections what was refused because its period is closed; the rest stays refused."""
        refused = [row for row, _ in run.refused if row.corrects is None]
        try:
            late = await in_closed_periods(self._usagebox, refused)
        except UsageBoxError as exc:
            await self._postpone(refused, f"whether its period is closed: {exc}")
            run.refused = [each for each in run.refused if each[0].corrects is not None]
            return
        if not late:
            return
        positions = {row.position for row in late}
        run.refused = [each for each in run.refused if each[0].position not in positions]
        again = Run(corrects=True)
        try:
            # A closed period refuses what it has as well: only what isn't there is to be corrected.
            missing = await self._missing([row for row in late if row.position in run.attempted], run)
            late = [row for row in late if row.position not in run.attempted] + missing
            await self._send(late, again)
        except NotInDialect:
            for row in late:
                await self._bury(row, NO_CORRECTIONS, run)
        except UsageBoxError as exc:
            await self._postpone(late, f"its period is closed: {exc}")
        run.delivered += again.delivered
        run.dead += again.dead
        run.refused += again.refused

    async def _postpone(self, rows: Sequence[UsageEventRow], error: str) -> None:
        due_us = self._now_us() + Backoff.wait_us(1)
        await self._mark(rows, "attempted", next_attempt_us=due_us, error=error[:500])

    async def _deliver(self, rows: Sequence[UsageEventRow], run: Run, *, corrected: bool = False) -> None:
        await self._mark(rows, "delivered", correction_suffix=CORRECTION_SUFFIX if corrected else None)
        DELIVERED.labels(USAGE_SINK, "corrected" if corrected else "delivered").inc(len(rows))
        run.delivered += len(rows)

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

    def _event(self, row: UsageEventRow, *, corrects: bool = False) -> UsageEvent:
        put_right = None
        if row.corrects is not None:
            put_right = CorrectionRef(row.corrects, row.correction_reason or "")
        event = UsageEvent(
            event_id=row.event_id,
            account_id=row.customer_id,
            meter_id=row.meter,
            quantity=row.quantity,
            unit=row.unit,
            timestamp_ms=row.at_us // 1000,
            source=self._source,
            model_id=row.model,
            kind="Usage" if put_right is None else "Correction",
            correction_ref=put_right,
        )
        return correction_of(event) if corrects else event

    async def _mark(
        self,
        rows: Sequence[UsageEventRow],
        state: str,
        *,
        next_attempt_us: int = 0,
        error: str | None = None,
        attempted_at_us: int | None = None,
        correction_suffix: str | None = None,
    ) -> None:
        positions = [row.position for row in rows]
        await asyncio.to_thread(
            lambda: self._store.deliveries.mark(
                USAGE_SINK,
                positions,
                state,
                next_attempt_us=next_attempt_us,
                error=error,
                attempted_at_us=attempted_at_us,
                correction_suffix=correction_suffix,
            )
        )
