"""Reading the three books of a customer so that what is on its way can be told from what is wrong.

Redis comes first: everything in the store and in the outbox has the Redis clock of its decision, so what the store had of
that very moment can be told later. UsageBox is read between two readings of the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from spendgate.client import Gate
from spendgate.control import STREAM_START, Control
from spendgate.keys import partition_of
from spendgate.limits import Quota, counter_field, speaks_of_all
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record
from spendgate.snapshot import Snapshot
from spendgate_daemon.books.line import Billed, Enforced, Line
from spendgate_daemon.relays.extract import effective_at_us
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, place_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.books import Period, Waiting
from spendgate_daemon.usagebox import TotalLine, UsageBox

OUTBOX_READ: Final = 10_000
"""Entries of one partition that are looked through; behind a longer backlog nothing can be compared."""


Source = Literal["rollup", "raw"]


class NotNow(Exception):
    """The store is too far behind for a comparison, or what it lacks can't be read."""


class _Totals:
    """What UsageBox has of a customer in a span."""

    def __init__(self, source: Source, lines: list[TotalLine], own_source: str) -> None:
        self.source = source
        self._lines = lines
        self._own_source = own_source

    @property
    def meters(self) -> set[str]:
        return {line.keys["meter_id"] for line in self._lines if line.quantity}

    def of(self, meters: tuple[str, ...]) -> tuple[int, int]:
        """Ours and all others'."""
        mine = [line for line in self._lines if line.keys["meter_id"] in meters]
        own = sum(line.quantity for line in mine if line.keys["source"] == self._own_source)
        return own, sum(line.quantity for line in mine) - own


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
        """The lines of one customer: the open period of each quota that counts meters as a whole, and for every meter that
        was used, here or elsewhere, this calendar month and the last. Raises NotNow, GateUnavailable and UsageBoxError."""
        snapshot = await self._gate.snapshot(customer_id)
        outbox = await self._outbox(customer_id)
        counted = dict(_counted(snapshot))
        lines = []
        for span in dict.fromkeys([*_spans(counted), *_months(snapshot.now_us)]):
            periods = [period for period in counted if (period.start_seconds, period.end_seconds) == span]
            meters = await asyncio.to_thread(self._store.books.meters, customer_id, *span)
            before = {each: await self._waiting(each) for each in self._with_months(snapshot, span, periods, meters)}
            totals = await self._totals(customer_id, span)
            elsewhere = {meter for meter in totals.meters if meter not in meters}
            for period in self._with_months(snapshot, span, [], elsewhere):
                if all(period.meters[0] not in each.meters for each in before):
                    before[period] = await self._waiting(period)
            for period, waiting in before.items():
                enforced = (
                    await self._enforced(snapshot, period, counted[period], outbox) if period in counted else None
                )
                billed = await self._billed(period, waiting, totals) if self._usagebox is not None else None
                recorded = billed.after.recorded if billed is not None else waiting.recorded
                lines.append(Line(period, enforced, recorded, billed, self._now_us()))
        return lines

    @staticmethod
    def _with_months(
        snapshot: Snapshot, span: tuple[int, int], periods: list[Period], meters: set[str]
    ) -> list[Period]:
        """The periods of limits in this span, and one of each meter that they don't count, where the span is a month."""
        if span not in _months(snapshot.now_us):
            return periods
        counted = {meter for period in periods for meter in period.meters}
        units = snapshot.policy.meters
        return periods + [
            Period(snapshot.customer_id, (meter,), units.get(meter, "unit"), *span)
            for meter in sorted(meters - counted)
        ]

    async def _outbox(self, customer_id: str) -> list[tuple[tuple[int, int], Record]]:
        """The customer's records that the store may lack. The cursor is read first: what is stored and trimmed meanwhile is
        in the store when that is read."""
        partition = partition_of(customer_id)
        cursor = await asyncio.to_thread(self._store.cursors.get, _cursor_name(customer_id))
        entries = await self._control.read_outbox({partition: cursor or STREAM_START}, OUTBOX_READ)
        if len(entries) == OUTBOX_READ:
            raise NotNow(f"the store is {OUTBOX_READ} records or more behind in partition {partition}")
        try:
            records = [(place_of(stream_id), decode_record(raw)) for _, stream_id, raw in entries]
        except msgspec.MsgspecError as exc:
            # Whose it is can't be told: it may be this customer's.
            raise NotNow(f"a record in partition {partition} can't be read: {exc}") from exc
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
        return Enforced(used, on_its_way, sum(recorded.units.values()), not_counted, snapshot.now_us)

    async def _billed(self, period: Period, before: Waiting, totals: _Totals) -> Billed:
        after = await self._waiting(period)
        own, external = totals.of(period.meters)
        raw = own
        if totals.source == "rollup" and not before.confirmed <= own <= after.recorded:
            again = await self._totals(period.customer_id, (period.start_seconds, period.end_seconds), "raw")
            raw, external = again.of(period.meters)
            after = await self._waiting(period)
        return Billed(own, raw, external, before, after)

    async def _totals(self, customer_id: str, span: tuple[int, int], source: Source | None = None) -> _Totals:
        """By source and meter, from hourly sums where the span has whole hours."""
        if self._usagebox is None:
            return _Totals("raw", [], self._own_source)
        start, end = (datetime.fromtimestamp(each, UTC) for each in span)
        source = source or ("rollup" if span[0] % 3600 == span[1] % 3600 == 0 else "raw")
        lines = await self._usagebox.totals(customer_id, start, end, ("source", "meter_id"), source=source)
        return _Totals(source, lines, self._own_source)

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
    return sum(quantity for meter, quantity in record.debited.items() if meter in period.meters)


def _spans(periods: Iterable[Period]) -> list[tuple[int, int]]:
    return [(period.start_seconds, period.end_seconds) for period in periods]


def _months(at_us: int) -> list[tuple[int, int]]:
    """This calendar month in UTC, as UsageBox closes them, and the last; Unix seconds."""
    first = datetime.fromtimestamp(at_us / 1_000_000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    before = (first - timedelta(days=1)).replace(day=1)
    starts = [int(each.timestamp()) for each in (before, first, following)]
    return [(starts[1], starts[2]), (starts[0], starts[1])]


def _cursor_name(customer_id: str) -> str:
    return f"{CURSOR_PREFIX}{partition_of(customer_id):03d}"
