"""Whose external usage is read when: a round reads as many customers as UsageBox bears in its time.

So many of a round are the longest unread that everybody comes within the stated time; the rest are those who will run out
soonest and those who were active since their last reading. When UsageBox pushes back, its rate is less and so is the next
round; the age of the longest unread tells then that the stated time doesn't hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from spendgate.client import Gate
from spendgate.control import Control
from spendgate.errors import GateUnavailable, SpendgateError
from spendgate_daemon.mirror.external import ExternalUsage, Reading
from spendgate_daemon.mirror.metrics import TOTALS_AGE, TOTALS_READ
from spendgate_daemon.store import Store
from spendgate_daemon.usagebox import UsageBox, UsageBoxError, UsageBoxUnavailable

READS_PER_CUSTOMER: Final = 3
"""About: one for each length of period, one for credits, one for the hours."""

AT_ONCE: Final = 4
"""Customers that are read at the same time."""

KEPT_TOGETHER: Final = 40
"""Customers whose readings are kept in one transaction."""

CUSTOMERS_MIN: Final = 10
CUSTOMERS_MAX: Final = 1000
UNREAD_MIN: Final = 50
"""Of a small installation, everybody in each round."""

_log = structlog.get_logger("spendgate.mirror.totals")


class UsageTotals:
    """`interval_seconds` is from one round to the next and bounds a round; `within_seconds` is the time in which everybody
    is read."""

    def __init__(
        self,
        control: Control,
        gate: Gate,
        store: Store,
        usagebox: UsageBox,
        own_source: str,
        now_us: Callable[[], int],
        touched: Callable[[set[str]], None] = lambda _: None,
        *,
        interval_seconds: float = 15.0,
        within_seconds: float = 3600.0,
    ) -> None:
        self._external = ExternalUsage(control, gate, usagebox, own_source, now_us)
        self._store = store
        self._usagebox = usagebox
        self._now_us = now_us
        self._touched = touched
        self._interval_seconds = interval_seconds
        self._within_seconds = within_seconds

    async def read_once(self) -> int:
        """Read one round; how many customers. Stops at the first sign that UsageBox is not there or has enough, and when
        it is time for the next one."""
        started_us, done = self._now_us(), 0
        known, _ = await asyncio.to_thread(self._store.customers.oldest_totals)
        turns = list((await asyncio.to_thread(self._choose, known)).items())
        for first in range(0, len(turns), KEPT_TOGETHER):
            part = turns[first : first + KEPT_TOGETHER]
            read = await self._read_part(part)
            done += read
            if read < len(part):
                _log.warning("usage totals stop for now", read=done, waiting=len(turns) - done)
                break
            if self._now_us() - started_us > self._interval_seconds * 1_000_000:
                break
        _, oldest_us = await asyncio.to_thread(self._store.customers.oldest_totals)
        TOTALS_AGE.set((self._now_us() - oldest_us) / 1_000_000 if oldest_us else 0)
        return done

    def _choose(self, known: int) -> dict[str, int]:
        borne = int(self._usagebox.read_rate * self._interval_seconds / READS_PER_CUSTOMER)
        number = max(CUSTOMERS_MIN, min(CUSTOMERS_MAX, borne))
        in_turn = int(known * self._interval_seconds / self._within_seconds) + 1
        unread = min(max(in_turn, UNREAD_MIN), number - number // 4)
        return self._store.customers.turns_to_read(number - unread, unread)

    async def _read_part(self, turns: Sequence[tuple[str, int]]) -> int:
        """Read customers and keep what was read; how many, less than given when UsageBox had enough."""
        waiting = iter(turns)
        readings: dict[str, Reading] = {}
        started_us = self._now_us()

        async def read_on() -> None:
            for customer_id, last_read_us in waiting:
                try:
                    readings[customer_id] = await self._external.read(customer_id, last_read_us)
                except UsageBoxUnavailable as exc:
                    TOTALS_READ.labels("unavailable").inc()
                    _log.warning("UsageBox gave no totals", customer_id=customer_id, error=str(exc))
                    return  # the others find out by themselves; what they have read until then is kept
                except GateUnavailable:
                    raise
                except (UsageBoxError, SpendgateError) as exc:
                    TOTALS_READ.labels("refused").inc()
                    _log.error("usage totals refused", customer_id=customer_id, error=str(exc))
                    readings[customer_id] = Reading([], [])  # the others' turn comes, too
                else:
                    TOTALS_READ.labels("read").inc()

        await asyncio.gather(*(read_on() for _ in range(AT_ONCE)))
        await asyncio.to_thread(self._keep, readings, started_us)
        self._touched(set(readings))
        return len(readings)

    def _keep(self, readings: dict[str, Reading], at_us: int) -> None:
        """The times come last: a kill in between costs another reading."""
        self._store.usage.save_external([row for reading in readings.values() for row in reading.hours])
        self._store.usage.save_totals([total for reading in readings.values() for total in reading.totals])
        self._store.customers.note_totals_read(list(readings), at_us)
