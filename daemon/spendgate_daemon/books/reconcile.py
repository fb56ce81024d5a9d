"""Comparing the books, customer by customer, and putting right what may be put right.

Two things may: a counter of Redis that the records contradict, in one script, and usage that UsageBox had confirmed and has
no more, which is sent again by the same id. A difference with a cause ends by itself, or by a person. A drift is put right
only when a second look, a moment later, finds the very same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec
import structlog

from spendgate.control import Control
from spendgate.errors import NotPrepared, ScriptFailed, WrongPolicy
from spendgate.reasons import quantity_text
from spendgate_daemon.books.line import BookPair, Line
from spendgate_daemon.books.metrics import COMPARED, DIFFERENT, DRIFTING, REPAIRED
from spendgate_daemon.books.read import NotNow, Reader
from spendgate_daemon.store import Store
from spendgate_daemon.store.books import Period
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.usagebox import UsageBox, UsageBoxError

CUSTOMERS_PER_RUN: Final = 50
LEFT_ALONE_US: Final = 600_000_000
"""One who could not be compared is passed over for as long."""

FAILURES_IN_A_ROW: Final = 2
NOT_COMPARED: Final = (NotNow, UsageBoxError, NotPrepared, ScriptFailed, WrongPolicy)
"""What may be about one customer alone: the others' books are compared all the same."""

EVENTS_LOOKED_UP: Final = 100_000

_log = structlog.get_logger("spendgate.books")


class Repair(msgspec.Struct, frozen=True):
    """What was put right, or would be. `what`: `counter` (of a limit) or `delivery` (events sent again)."""

    what: Literal["counter", "delivery"]
    period: Period
    message: str

    @property
    def between(self) -> BookPair:
        return "enforced/recorded" if self.what == "counter" else "recorded/billed"


class Outcome(msgspec.Struct, frozen=True):
    """Of one customer; the lines are as they were found, twice where something drifted."""

    customer_id: str
    lines: list[Line]
    repairs: list[Repair]

    @property
    def unexplained(self) -> bool:
        """Whether something differs without a cause, and was not put right."""
        drifting = {
            (line.period, each.between) for line in self.lines for each in line.differences() if each.cause == "drift"
        }
        return bool(drifting - {(repair.period, repair.between) for repair in self.repairs})


class Reconcile:
    """`usagebox` None: only Redis and the store are compared."""

    def __init__(
        self,
        reader: Reader,
        control: Control,
        store: Store,
        usagebox: UsageBox | None,
        now_us: Callable[[], int],
    ) -> None:
        self._reader = reader
        self._control = control
        self._store = store
        self._usagebox = usagebox
        self._now_us = now_us
        self._passed_over: dict[str, int] = {}

    async def run_once(self) -> int:
        """Compare those whose turn was longest ago; how many. One that can't be is passed over for a while, and then comes
        after the others; two in a row end the run: then it isn't about them."""
        now_us, done, failed = self._now_us(), 0, 0
        self._passed_over = {name: at_us for name, at_us in self._passed_over.items() if at_us > now_us}
        wanted = CUSTOMERS_PER_RUN + len(self._passed_over)
        chosen = await asyncio.to_thread(self._store.books.longest_uncompared, wanted)
        for customer_id in [each for each in chosen if each not in self._passed_over]:
            try:
                await self.customer(customer_id)
            except NOT_COMPARED as exc:
                COMPARED.labels("not_now").inc()
                _log.warning("the books are compared later", customer_id=customer_id, error=str(exc))
                self._passed_over[customer_id] = now_us + LEFT_ALONE_US
                await asyncio.to_thread(self._store.books.end_turn, customer_id, now_us)
                failed += 1
                if failed == FAILURES_IN_A_ROW:
                    break
                continue
            done, failed = done + 1, 0
        counts = await asyncio.to_thread(self._store.books.counts)
        DIFFERENT.set(counts["differ"])
        DRIFTING.set(counts["drift"])
        return done

    async def customer(self, customer_id: str, *, dry_run: bool = False) -> Outcome:
        """Compare one customer, put right what drifts, and keep what was found. A dry run changes nothing. Raises
        NOT_COMPARED and GateUnavailable."""
        lines = await self._reader.read(customer_id)
        repairs: list[Repair] = []
        if any(line.drift("enforced/recorded") or line.drift("recorded/billed") for line in lines):
            before = {line.period: line for line in lines}
            lines = await self._reader.read(customer_id)
            for line in lines:
                if line.period in before:
                    repairs += await self._repair(before[line.period], line, dry_run=dry_run)
        COMPARED.labels("compared").inc()
        outcome = Outcome(customer_id, lines, repairs)
        if not dry_run:
            found = await self._reader.read(customer_id) if repairs else lines
            kept = [line.kept() for line in found]
            await asyncio.to_thread(self._store.books.save, customer_id, kept, self._now_us())
        return outcome

    async def _repair(self, line: Line, again: Line, *, dry_run: bool) -> list[Repair]:
        repairs = []
        drift = line.drift("enforced/recorded")
        if drift and drift == again.drift("enforced/recorded"):
            read_at_us = again.enforced.read_at_us if again.enforced is not None else 0
            repairs += await self._repair_counter(line.period, drift, read_at_us, dry_run=dry_run)
        lost = line.drift("recorded/billed")
        if lost > 0 and again.drift("recorded/billed") > 0:
            repairs += await self._send_again(line.period, dry_run=dry_run)
        return repairs

    async def _repair_counter(self, period: Period, drift: int, read_at_us: int, *, dry_run: bool) -> list[Repair]:
        limit_id = period.limit_id or ""
        message = (
            f"{limit_id}: {quantity_text(abs(drift), period.unit)} too {'much' if drift > 0 else 'little'} counted"
        )
        if not dry_run:
            # The record of it becomes a guardrail event.
            done = await self._control.repair_used(
                period.customer_id, limit_id, period.start_seconds, -drift, read_at_us
            )
            if done is None:
                return []
            REPAIRED.labels("counter").inc()
            _log.error(
                "a counter did not match the records", customer_id=period.customer_id, limit=limit_id, drift=drift
            )
        return [Repair("counter", period, message)]

    async def _send_again(self, period: Period, *, dry_run: bool) -> list[Repair]:
        delivered = await asyncio.to_thread(self._store.books.delivered, period, EVENTS_LOOKED_UP)
        there = await self._event_ids(period)
        missing = [position for position, event_id in delivered if event_id not in there]
        if not missing:
            return []
        events = "1 confirmed event was" if len(missing) == 1 else f"{len(missing):,} confirmed events were"
        message = f"{events} missing in UsageBox; sent again"
        if not dry_run:
            at_us = self._now_us()
            event = GuardrailEvent(
                id=f"books.{period.customer_id[:40]}.{at_us}",
                customer_id=period.customer_id,
                kind="repair",
                at_us=at_us,
                limit_id=period.limit_id,
                message=message,
            )
            await asyncio.to_thread(self._store.books.send_again, missing, event)
            REPAIRED.labels("delivery").inc()
            _log.error("UsageBox lacks what it had confirmed", customer_id=period.customer_id, events=len(missing))
        return [Repair("delivery", period, message)]

    async def _event_ids(self, period: Period) -> set[str]:
        """Of all events that UsageBox has of the period, day by day."""
        assert self._usagebox is not None  # noqa: S101  (otherwise nothing was billed)
        found: set[str] = set()
        now = datetime.fromtimestamp(self._now_us() / 1_000_000, UTC) + timedelta(hours=1)
        at = datetime.fromtimestamp(period.start_seconds, UTC)
        end = min(now, datetime.fromtimestamp(period.end_seconds, UTC))
        while at < end:
            until = min(end, at + timedelta(days=1))
            events = await self._usagebox.events(period.customer_id, at, until)
            found |= {event.event_id for event in events}
            at = until
        return found
