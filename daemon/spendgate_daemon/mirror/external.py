"""External usage of one customer: what UsageBox has from every source but our own.

Ours is counted in Redis already, and some of it may still be on its way; so only the others' is read, per period of each
limit, and a script refuses it when the period or a younger reading has overtaken it. A limit of a part of the use (`match`,
`per`) gets none: UsageBox doesn't know our metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from spendgate.client import Gate
from spendgate.control import Control
from spendgate.limits import Credits, Quota
from spendgate.limits.check import matches
from spendgate_daemon.store.usage import Total
from spendgate_daemon.usagebox import TotalLine, UsageBox

HISTORY_DAYS: Final = 35
EPOCH: Final = datetime(2015, 1, 1, tzinfo=UTC)
"""Credits are cumulative: their usage counts from before UsageBox existed."""

COUNTED_MAX: Final = 8 * 10**15
"""More is read as this much: Redis counts to 9×10^15, own use included, and no limit has anything left by then. With a
count that is full, a decision would be an error instead of a stop."""

_HOUR: Final = timedelta(hours=1)


class Reading(msgspec.Struct):
    """What is kept of one customer's reading: totals of periods, and (customer, meter, hour start, quantity)."""

    totals: list[Total]
    hours: list[tuple[str, str, int, int]]


class ExternalUsage:
    """`own_source` is `spendgate/<install>`."""

    def __init__(
        self, control: Control, gate: Gate, usagebox: UsageBox, own_source: str, now_us: Callable[[], int]
    ) -> None:
        self._control = control
        self._gate = gate
        self._usagebox = usagebox
        self._own_source = own_source
        self._now_us = now_us

    async def read(self, customer_id: str, last_read_us: int) -> Reading:
        """Read what UsageBox has and enforce it; what is to be kept is the answer. `last_read_us` 0: for the first time.
        Raises UsageBoxError and SpendgateError."""
        snapshot = await self._gate.snapshot(customer_id)
        periods: dict[tuple[int, int], list[Quota]] = {}
        for limit in snapshot.policy.limits:
            if isinstance(limit, Quota) and not limit.match and limit.per is None:
                period = limit.window.period_at(snapshot.now_us)
                if period is not None:
                    periods.setdefault(period, []).append(limit)
            elif isinstance(limit, Credits) and not limit.match:
                await self._read_credits(customer_id, limit)
        reading = Reading([], [])
        for (start, end), limits in periods.items():
            reading.totals += await self._read_quotas(customer_id, start, end, limits)
        reading.hours = await self._read_hours(customer_id, last_read_us)
        return reading

    async def _read_quotas(self, customer_id: str, start: int, end: int, limits: Sequence[Quota]) -> list[Total]:
        requested_at_us = self._now_us()
        lines = await self._totals(customer_id, _instant(start), _instant(end), ("source", "meter_id"))
        for limit in limits:
            amount = sum(
                line.quantity
                for line in lines
                if line.keys["meter_id"] in limit.meters and line.keys["source"] != self._own_source
            )
            await self._control.put_external(customer_id, limit.id, start, max(0, _bounded(amount)), requested_at_us)
        if end - start < 86_400:
            return []
        meters: dict[str, list[int]] = {}
        for line in lines:
            sums = meters.setdefault(line.keys["meter_id"], [0, 0])
            sums[0 if line.keys["source"] == self._own_source else 1] += line.quantity
        return [
            Total(customer_id, meter, start, _bounded(own), _bounded(other), requested_at_us)
            for meter, (own, other) in meters.items()
        ]

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
        await self._control.put_external(customer_id, limit.id, 0, max(0, _bounded(cost)), requested_at_us)

    async def _read_hours(self, customer_id: str, last_read_us: int) -> list[tuple[str, str, int, int]]:
        """Hour by hour, for charts: those since the last reading, and two before it for what came late; all of the kept
        history at first."""
        hour = _instant(self._now_us() // 1_000_000).replace(minute=0, second=0, microsecond=0)
        start = hour - timedelta(days=HISTORY_DAYS)
        if last_read_us:
            read = _instant(last_read_us // 1_000_000).replace(minute=0, second=0, microsecond=0)
            start = max(start, read - 2 * _HOUR)
        keys = ("source", "meter_id", "hour_start_ms")
        hours: dict[tuple[str, int], int] = {}
        for line in await self._totals(customer_id, start, hour + _HOUR, keys):
            if line.keys["source"] != self._own_source:
                at = (line.keys["meter_id"], int(line.keys["hour_start_ms"]) // 1000)
                hours[at] = hours.get(at, 0) + line.quantity
        return [(customer_id, meter, start_at, _bounded(quantity)) for (meter, start_at), quantity in hours.items()]

    async def _totals(
        self, customer_id: str, start: datetime, end: datetime, group_by: tuple[str, ...]
    ) -> list[TotalLine]:
        whole_hours = all(moment.minute == moment.second == moment.microsecond == 0 for moment in (start, end))
        source: Literal["rollup", "raw"] = "rollup" if whole_hours else "raw"
        return await self._usagebox.totals(customer_id, start, end, group_by, source=source)


def _bounded(amount: int) -> int:
    return max(-COUNTED_MAX, min(amount, COUNTED_MAX))


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
