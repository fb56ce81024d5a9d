"""External usage: what UsageBox has of a customer from every source but our own.

Ours is counted in Redis already, and some of it may still be on its way; so only the others' is read, per period of each
limit, and a script refuses it when the period or a younger reading has overtaken it. A limit of a part of the use (`match`,
`per`) gets none: UsageBox doesn't know our metadata.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import structlog

from spendgate.client import Gate
from spendgate.control import Control
from spendgate.limits import Credits, Quota
from spendgate.limits.check import matches
from spendgate.snapshot import Snapshot
from spendgate_daemon.mirror.metrics import TOTALS_READ
from spendgate_daemon.store import Store
from spendgate_daemon.store.usage import Total
from spendgate_daemon.usagebox import TotalLine, UsageBox, UsageBoxError, UsageBoxUnavailable

CUSTOMERS_PER_ROUND: Final = 100
HISTORY_DAYS: Final = 35
EPOCH: Final = datetime(2015, 1, 1, tzinfo=UTC)
"""Credits are cumulative: their usage counts from before UsageBox existed."""

_log = structlog.get_logger("spendgate.mirror.totals")


class UsageTotals:
    """`own_source` is `spendgate/<install>`."""

    def __init__(
        self,
        control: Control,
        gate: Gate,
        store: Store,
        usagebox: UsageBox,
        own_source: str,
        now_us: Callable[[], int],
        touched: Callable[[set[str]], None] = lambda _: None,
    ) -> None:
        self._control = control
        self._gate = gate
        self._store = store
        self._usagebox = usagebox
        self._own_source = own_source
        self._now_us = now_us
        self._touched = touched
        self._read_at_us: dict[str, int] = {}

    async def read_once(self) -> int:
        """Read the totals of those closest to a limit and of those not read for longest; how many customers. Stops at
        the first sign that UsageBox is not there or has enough."""
        chosen = await asyncio.to_thread(self._choose)
        for done, customer_id in enumerate(chosen):
            try:
                await self._read_customer(customer_id)
            except UsageBoxUnavailable as exc:
                TOTALS_READ.labels("unavailable").inc()
                _log.warning("usage totals stop for now", error=str(exc), read=done, waiting=len(chosen) - done)
                return done
            except UsageBoxError as exc:
                TOTALS_READ.labels("refused").inc()
                _log.error("usage totals refused", customer_id=customer_id, error=str(exc))
            self._read_at_us[customer_id] = self._now_us()
            TOTALS_READ.labels("read").inc()
        self._touched(set(chosen))
        return len(chosen)

    def _choose(self) -> list[str]:
        """Half the round to the soonest to run out, half to the longest unread."""
        half = CUSTOMERS_PER_ROUND // 2
        urgent = [item.customer.customer_id for item in self._store.customers.page(limit=half).items]
        everyone = [customer.customer_id for customer in self._store.customers.all_known()]
        unread = sorted(everyone, key=lambda customer_id: self._read_at_us.get(customer_id, 0))
        return list(dict.fromkeys([*urgent, *unread[: CUSTOMERS_PER_ROUND - len(urgent)]]))

    async def _read_customer(self, customer_id: str) -> None:
        snapshot = await self._gate.snapshot(customer_id)
        periods: dict[tuple[int, int], list[Quota]] = {}
        for limit in snapshot.policy.limits:
            if isinstance(limit, Quota) and not limit.match and limit.per is None:
                period = limit.window.period_at(snapshot.now_us)
                if period is not None:
                    periods.setdefault(period, []).append(limit)
            elif isinstance(limit, Credits) and not limit.match:
                await self._read_credits(customer_id, limit)
        for (start, end), limits in periods.items():
            await self._read_quotas(customer_id, start, end, limits)
        await self._read_hours(snapshot)

    async def _read_quotas(self, customer_id: str, start: int, end: int, limits: Sequence[Quota]) -> None:
        requested_at_us = self._now_us()
        lines = await self._totals(customer_id, _instant(start), _instant(end), ("source", "meter_id"))
        for limit in limits:
            amount = sum(
                line.quantity
                for line in lines
                if line.keys["meter_id"] in limit.meters and line.keys["source"] != self._own_source
            )
            await self._control.put_external(customer_id, limit.id, start, max(0, amount), requested_at_us)
        if end - start >= 86_400:
            await self._save_totals(customer_id, start, lines, requested_at_us)

    async def _read_credits(self, customer_id: str, limit: Credits) -> None:
        requested_at_us = self._now_us()
        end = _instant(requested_at_us // 1_000_000 // 3600 * 3600 + 3600)
        lines = await self._totals(customer_id, EPOCH, end, ("source", "meter_id", "model_id"))
        cost = 0
        for line in lines:
            if line.keys["source"] == self._own_source:
                continue
            weights = [
                weight.micro_credits
                for weight in limit.weights
                if weight.meter == line.keys["meter_id"] and matches(weight.model, line.keys["model_id"])
            ]
            cost += line.quantity * weights[0] if weights else 0
        await self._control.put_external(customer_id, limit.id, 0, max(0, cost), requested_at_us)

    async def _read_hours(self, snapshot: Snapshot) -> None:
        """Hour by hour, for charts: all of the kept history once, then the last hours."""
        now = _instant(self._now_us() // 1_000_000)
        hour = now.replace(minute=0, second=0, microsecond=0)
        first = snapshot.customer_id not in self._read_at_us
        start = hour - (timedelta(days=HISTORY_DAYS) if first else timedelta(hours=3))
        keys = ("source", "meter_id", "hour_start_ms")
        lines = await self._totals(snapshot.customer_id, start, hour + timedelta(hours=1), keys)
        hours: dict[tuple[str, int], int] = {}
        for line in lines:
            if line.keys["source"] != self._own_source:
                at = (line.keys["meter_id"], int(line.keys["hour_start_ms"]) // 1000)
                hours[at] = hours.get(at, 0) + line.quantity
        rows = [(snapshot.customer_id, meter, start_at, quantity) for (meter, start_at), quantity in hours.items()]
        await asyncio.to_thread(self._store.usage.save_external, rows)

    async def _save_totals(self, customer_id: str, start: int, lines: Sequence[TotalLine], read_at_us: int) -> None:
        meters: dict[str, list[int]] = {}
        for line in lines:
            sums = meters.setdefault(line.keys["meter_id"], [0, 0])
            sums[0 if line.keys["source"] == self._own_source else 1] += line.quantity
        totals = [Total(customer_id, meter, start, own, other, read_at_us) for meter, (own, other) in meters.items()]
        await asyncio.to_thread(self._store.usage.save_totals, totals)

    async def _totals(
        self, customer_id: str, start: datetime, end: datetime, group_by: tuple[str, ...]
    ) -> list[TotalLine]:
        whole_hours = all(moment.minute == moment.second == moment.microsecond == 0 for moment in (start, end))
        source: Literal["rollup", "raw"] = "rollup" if whole_hours else "raw"
        return await self._usagebox.totals(customer_id, start, end, group_by, source=source)


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
