"""Nobody is stopped by reservations that no longer exist.

Round by round, every customer's counters are compared with the reservations that are open in Redis, in one script that puts
a difference right and records it. The store is asked, too: a reservation that it saw begin and never end, and that Redis
has no more, is lost, and its customer is compared at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Final

import msgspec
import structlog

from spendgate.control import Comparison, Control
from spendgate.errors import NotPrepared, WrongPolicy
from spendgate.keys import partition_of
from spendgate_daemon.relays.metrics import (
    REPAIRS,
    RESERVATIONS_LOST,
    RESERVATIONS_OPEN,
    RESERVATIONS_OVERDUE,
    UNCOMPARED,
    UNREADABLE,
)
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, place_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.decisions import StoredDecision

KEYS_PER_SCAN: Final = 1_000
CUSTOMERS_PER_RUN: Final = 1_000
"""So a run costs Redis some ten milliseconds, in small steps; the next one goes on from there."""

AT_ONCE: Final = 16
UNENDED_MAX: Final = 1_000
UNENDED_WITHIN_US: Final = 26 * 3_600_000_000
"""No reservation lives longer than a day, with its grace."""

NOWHERE: Final = (0, 0)
NEVER: Final = (2**63, 0)
"""Places in an outbox."""

_log = structlog.get_logger("spendgate.reserved")


class _Sums(msgspec.Struct):
    """Of the round under way."""

    open: int = 0
    overdue: int = 0
    too_many: int = 0


class ReservedCheck:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._round: AsyncGenerator[str, None] | None = None
        self._sums = _Sums()

    async def run_once(self) -> int:
        """Compare the next customers, at most CUSTOMERS_PER_RUN; how many were repaired. A run that fails ends its round,
        and the next one begins another."""
        going, self._round = self._round, None
        if going is None:
            going, self._sums = self._control.customers_with_counters(KEYS_PER_SCAN), _Sums()
        try:
            customers = [customer_id async for customer_id in _first(going, CUSTOMERS_PER_RUN)]
            compared = await self.compare(customers)
        except BaseException:
            await going.aclose()
            raise
        self._sums.open += sum(each.open for each in compared)
        self._sums.overdue += sum(each.overdue for each in compared)
        self._sums.too_many += sum(each.status == "too_many" for each in compared)
        if len(customers) < CUSTOMERS_PER_RUN:
            self._tell_round()
        else:
            self._round = going
        return sum(each.status == "repaired" for each in compared)

    async def compare(self, customer_ids: Iterable[str]) -> list[Comparison]:
        """Compare these customers now, those left out that can't be."""
        waiting = list(dict.fromkeys(customer_ids))
        compared: list[Comparison] = []
        for start in range(0, len(waiting), AT_ONCE):
            part = waiting[start : start + AT_ONCE]
            compared += [each for each in await asyncio.gather(*map(self._compare, part)) if each is not None]
        return compared

    async def _compare(self, customer_id: str) -> Comparison | None:
        """None where it can't be done: one customer whose policy is gone must not hold up the others."""
        try:
            done = await self._control.repair_reserved(customer_id)
        except (WrongPolicy, NotPrepared) as exc:
            UNREADABLE.inc()
            _log.warning("reservations can't be compared", customer_id=customer_id, error=str(exc))
            return None
        if done.status == "repaired":
            REPAIRS.inc()
            _log.error("reservations did not add up", customer_id=customer_id, counters=done.counters, open=done.open)
        return done

    def _tell_round(self) -> None:
        RESERVATIONS_OPEN.set(self._sums.open)
        RESERVATIONS_OVERDUE.set(self._sums.overdue)
        UNCOMPARED.set(self._sums.too_many)


async def _first(ids: AsyncGenerator[str, None], most: int) -> AsyncIterator[str]:
    """At most as many; the others stay where they are."""
    for _ in range(most):
        try:
            yield await anext(ids)
        except StopAsyncIteration:
            return


class LostReservations:
    """Finds reservations that began in the store, have no end there, and are not open in Redis.

    An end may be on its way to the store, so one is believed lost only when everything that Redis had recorded by the time
    it was missing is stored, and there is still no end.
    """

    def __init__(self, control: Control, store: Store, check: ReservedCheck, now_us: Callable[[], int]) -> None:
        self._control = control
        self._store = store
        self._check = check
        self._now_us = now_us
        self._missing: dict[str, tuple[int, int]] = {}
        self._lost: set[str] = set()

    async def run_once(self) -> int:
        """How many were found lost since the last run; their customers are compared at once. At most UNENDED_MAX
        reservations without an end are looked at, the oldest first."""
        now_us = self._now_us()
        stored = await asyncio.to_thread(self._places)  # before the reservations: what is stored since only says more
        unended = await asyncio.to_thread(
            self._store.decisions.unended, now_us - UNENDED_WITHIN_US, now_us, UNENDED_MAX
        )
        lost = {
            each.decision_id: each
            for each in unended
            if self._missing.get(each.decision_id, NEVER) <= stored.get(partition_of(each.customer_id), NOWHERE)
        }
        await self._note_missing(unended)
        new = [each for name, each in lost.items() if name not in self._lost]
        for each in new:
            _log.error("a reservation is lost", decision_id=each.decision_id, customer_id=each.customer_id)
        self._lost = set(lost)
        RESERVATIONS_LOST.set(len(lost))
        await self._check.compare({each.customer_id for each in new})
        return len(new)

    async def _note_missing(self, unended: list[StoredDecision]) -> None:
        """Those that are not open now, with the place that the outbox had reached; one known as missing keeps its."""
        absent = await self._control.not_open([(each.customer_id, each.event_id) for each in unended])
        self._missing = {
            each.decision_id: self._missing.get(each.decision_id, place)
            for each, place in zip(unended, absent, strict=True)
            if place is not None
        }

    def _places(self) -> dict[int, tuple[int, int]]:
        """How far the store is, by partition; nowhere where it has nothing."""
        cursors = self._store.cursors.starting_with(CURSOR_PREFIX)
        return {int(name.removeprefix(CURSOR_PREFIX)): place_of(stream_id) for name, stream_id in cursors.items()}
