"""Reading the three books of a customer so that what is on its way can be told from what is wrong.

Redis comes first: everything in the store and in the outbox has the Redis clock of its decision, so what the store had of
that very moment can be told later. UsageBox is read between two readings of the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, Literal

from spendgate.client import Gate
from spendgate.control import STREAM_START, Control
from spendgate.keys import partition_of
from spendgate.limits import Quota, counter_field, speaks_of_all
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record
from spendgate.snapshot import Snapshot
from spendgate_daemon.books.line import Billed, Enforced, Line
from spendgate_daemon.relays.extract import debited, effective_at_us
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, place_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.books import Period, Waiting
from spendgate_daemon.usagebox import UsageBox

OUTBOX_READ: Final = 10_000
"""Entries of one partition that are looked through; behind a longer backlog nothing can be compared."""


class NotNow(Exception):
    """The store is too far behind for a comparison."""


class Reader:
    """`usagebox` None: there is none, and nothing is said of it. `own_source` is `spendgate/<install>`."""

    def __init__(
        self,
        gate: Gate,
        control: Control,
        store: Store,
        usagebox: UsageBox | None,
        own_source: str,
        now_us: Callable[[], int],
    ) -> None:
        self._gate = gate
        self._control = control
        self._store = store
        self._usagebox = usagebox
        self._own_source = own_source
        self._now_us = now_us

    async def read(self, customer_id: str) -> list[Line]:
        """The lines of one customer: the open period of each quota that counts meters as a whole, and the calendar month of
        all other meters that were used. Raises NotNow, GateUnavailable and UsageBoxError."""
        snapshot = await self._gate.snapshot(customer_id)
        outbox = await self._outbox(customer_id)
        lines = []
        for period, used in await self._periods(snapshot):
            enforced = await self._enforced(snapshot, period, used, outbox) if used is not None else None
            before = await self._waiting(period)
            billed = await self._billed(period, before) if self._usagebox is not None else None
            recorded = billed.after.recorded if billed is not None else before.recorded
            lines.append(Line(period, enforced, recorded, billed, self._now_us()))
        return lines

    async def _periods(self, snapshot: Snapshot) -> list[tuple[Period, int | None]]:
        """With what Redis counted in each; None where no limit counts it."""
        found: list[tuple[Period, int | None]] = list(_counted(snapshot))
        counted = {meter for period, _ in found for meter in period.meters}
        for meter, unit in snapshot.policy.meters.items():
            if meter not in counted:
                period = Period(snapshot.customer_id, (meter,), unit, *_month_of(snapshot.now_us))
                if (await self._waiting(period)).recorded:
                    found.append((period, None))
        return found

    async def _outbox(self, customer_id: str) -> list[tuple[tuple[int, int], Record]]:
        """The customer's records that the store may lack. The cursor is read first: what is stored and trimmed meanwhile is
        in the store when that is read."""
        partition = partition_of(customer_id)
        cursor = await asyncio.to_thread(self._store.cursors.get, _cursor_name(customer_id))
        entries = await self._control.read_outbox({partition: cursor or STREAM_START}, OUTBOX_READ)
        if len(entries) == OUTBOX_READ:
            raise NotNow(f"the store is {OUTBOX_READ} records or more behind in partition {partition}")
        records = ((place_of(stream_id), decode_record(raw)) for _, stream_id, raw in entries)
        return [(place, record) for place, record in records if record.customer_id == customer_id]

    async def _enforced(
        self, snapshot: Snapshot, period: Period, used: int, outbox: list[tuple[tuple[int, int], Record]]
    ) -> Enforced | None:
        """None where another plan counted the same limit otherwise, so that nobody can tell the sum."""
        store = self._store.books
        recorded = await asyncio.to_thread(store.recorded, period, snapshot.now_us, _cursor_name(snapshot.customer_id))
        stored_to = place_of(recorded.cursor or STREAM_START)
        on_its_way = sum(
            _debited_in(record, period)
            for place, record in outbox
            if place > stored_to and record.now_us <= snapshot.now_us
        )
        not_counted = 0
        for digest, units in recorded.units.items():
            policy = await asyncio.to_thread(self._store.policies.effective, digest)
            counts = _counts(policy, period, snapshot.now_us) if policy is not None else None
            if counts is None:
                return None
            not_counted += 0 if counts else units
        return Enforced(used, on_its_way, sum(recorded.units.values()), not_counted)

    async def _billed(self, period: Period, before: Waiting) -> Billed:
        start, end = (datetime.fromtimestamp(each, UTC) for each in (period.start_seconds, period.end_seconds))
        whole_hours = period.start_seconds % 3600 == period.end_seconds % 3600 == 0
        own, external = await self._totals(period, start, end, "rollup" if whole_hours else "raw")
        after = await self._waiting(period)
        raw = own
        if whole_hours and not before.confirmed <= own <= after.recorded:
            raw, external = await self._totals(period, start, end, "raw")
            after = await self._waiting(period)
        return Billed(own, raw, external, before, after)

    async def _totals(
        self, period: Period, start: datetime, end: datetime, source: Literal["rollup", "raw"]
    ) -> tuple[int, int]:
        """Ours and all others'."""
        assert self._usagebox is not None  # noqa: S101  (see `read`)
        lines = await self._usagebox.totals(period.customer_id, start, end, ("source", "meter_id"), source=source)
        mine = [line for line in lines if line.keys["meter_id"] in period.meters]
        own = sum(line.quantity for line in mine if line.keys["source"] == self._own_source)
        return own, sum(line.quantity for line in mine) - own

    async def _waiting(self, period: Period) -> Waiting:
        return await asyncio.to_thread(self._store.books.waiting, period, self._now_us())


def _counted(snapshot: Snapshot) -> Iterator[tuple[Period, int]]:
    """Open periods of the quotas that count whole meters, and what they counted."""
    for limit in snapshot.policy.limits:
        if not isinstance(limit, Quota) or not speaks_of_all(limit):
            continue
        period = limit.window.period_at(snapshot.now_us)
        if period is not None:
            counter = snapshot.counters.get(counter_field(limit))
            used = counter.used if counter is not None and counter.period_start_seconds == period[0] else 0
            yield Period(snapshot.customer_id, limit.meters, limit.unit, *period, limit.id), used


def _counts(policy: EffectivePolicy, period: Period, now_us: int) -> bool | None:
    """Whether under this policy the limit counted all of these meters in this period; None: some of it."""
    limit = next((each for each in policy.limits if isinstance(each, Quota) and each.id == period.limit_id), None)
    if limit is None or limit.window.period_at(now_us) != (period.start_seconds, period.end_seconds):
        return False
    if not speaks_of_all(limit) or limit.meters != period.meters:
        return None
    return True


def _debited_in(record: Record, period: Period) -> int:
    if not period.start_seconds * 1_000_000 <= effective_at_us(record) < period.end_seconds * 1_000_000:
        return 0
    return sum(quantity for meter, quantity in debited(record).items() if meter in period.meters)


def _month_of(at_us: int) -> tuple[int, int]:
    """The calendar month in UTC, as UsageBox closes them; Unix seconds."""
    start = datetime.fromtimestamp(at_us / 1_000_000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return int(start.timestamp()), int(end.timestamp())


def _cursor_name(customer_id: str) -> str:
    return f"{CURSOR_PREFIX}{partition_of(customer_id):03d}"
