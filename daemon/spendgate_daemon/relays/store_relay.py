"""The store relay: outbox → store, the only reader of the outbox.

Rows and cursor are one transaction, so a kill at any point repeats a batch that changes nothing or was never seen. The
outbox is trimmed only up to what the store has for good. Two things are counted and logged, never passed over in silence:
a missing sequence number (Redis lost a record that it had acknowledged), and a Redis that has something else than the store
where the cursor stands, or nothing (it lost a tail and gives the same numbers again: see `restore/`). A record that can't be
read holds up its own partition and no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog

from spendgate.control import STREAM_START, Control, StreamEntries
from spendgate.errors import NotPrepared
from spendgate.keys import PARTITIONS, decision_id_of
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record
from spendgate_daemon.relays.duplicates import duplicate_event
from spendgate_daemon.relays.extract import Extract, extract
from spendgate_daemon.relays.metrics import GAPS, HELD, LOST_TAILS, RELAY_LAG, RESERVATIONS_ENDED, STORED
from spendgate_daemon.store import Store
from spendgate_daemon.store.cursors import Overtaken
from spendgate_daemon.store.guardrail_events import GuardrailEvent

USAGE_SINK: Final = "usagebox.usage"
POLICY_SINK: Final = "usagebox.policy"
CURSOR_PREFIX: Final = "outbox."
BATCH: Final = 2000
"""Records of one transaction, so that other writers of SQLite get their turn."""

MIN_RECORDS_PER_PARTITION: Final = 50
ROUNDS_BETWEEN_CHECKS: Final = 50
"""Reading shows no lost tail, only silence; so it is looked for, about every second when idle."""

RELAY_LOCK: Final = 737066

_log = structlog.get_logger("spendgate.relay.store")


class Stored(msgspec.Struct, frozen=True):
    """An outbox entry on its way: where it stands, what it says, and what follows from it."""

    partition: int
    stream_id: str
    raw: bytes
    record: Record
    extract: Extract


class StoreRelay:
    """`observers` are told the customers of each stored batch; `owned` gives the partitions that are this one's now, None is
    all."""

    def __init__(
        self,
        control: Control,
        store: Store,
        observers: Iterable[Callable[[set[str]], None]] = (),
        owned: Callable[[], Collection[int]] | None = None,
    ) -> None:
        self._control = control
        self._store = store
        self._observers = tuple(observers)
        self._owned = owned
        self._cursors: dict[int, str] = {}
        """Of the partitions that it is at, where it has read to."""
        self._marks: dict[int, bytes] = {}
        self.behind: set[int] = set()
        """Partitions whose Redis lost a tail: they are left alone until a new epoch begins."""
        self._held: dict[int, str] = {}
        self._policies: dict[str, EffectivePolicy] = {}
        self._rounds = 0
        self._count = MIN_RECORDS_PER_PARTITION

    async def run_once(self) -> int:
        """Store what is in the outbox now; how many records. About BATCH are read at once, from all partitions that
        have any."""
        try:
            return await self._run()
        except Overtaken as exc:
            _log.warning("another replica was faster", error=str(exc))
            for partition in list(self._cursors):
                self._leave(partition)
            return 0

    async def _run(self) -> int:
        owned = self.partitions()
        for partition in self._cursors.keys() - owned:
            self._leave(partition)
        if owned - self._cursors.keys():
            await self._resume(owned - self._cursors.keys())
        elif self.behind or self._rounds % ROUNDS_BETWEEN_CHECKS == 0:
            await self._look_for_lost_tails(self._cursors)
        self._rounds += 1
        cursors = {partition: at for partition, at in self._cursors.items() if partition not in self.behind}
        entries = await self._control.read_outbox(cursors, self._count) if cursors else []
        # After the reading: what stands where the cursor is says that all of these follow what is stored.
        await self._look_for_lost_tails({partition: self._cursors[partition] for partition, _, _ in entries})
        entries = [entry for entry in entries if entry[0] not in self.behind]
        if not entries:
            return 0
        self._count = max(MIN_RECORDS_PER_PARTITION, BATCH // len({partition for partition, _, _ in entries}))
        return sum([await self._take(entries[start : start + BATCH]) for start in range(0, len(entries), BATCH)])

    def partitions(self) -> frozenset[int]:
        """Those that are this one's now."""
        return frozenset(range(PARTITIONS) if self._owned is None else self._owned())

    def _leave(self, partition: int) -> None:
        del self._cursors[partition]
        self._marks.pop(partition, None)
        self._held.pop(partition, None)
        self.behind.discard(partition)

    async def _resume(self, partitions: Collection[int]) -> None:
        """Cursors from the store; what they cover is trimmed, in case the last run was killed before it did so."""
        stored, marks = await asyncio.to_thread(self._stored_cursors, partitions)
        cursors = {partition: stored.get(partition, STREAM_START) for partition in partitions}
        self._marks |= marks
        await self._look_for_lost_tails(cursors)
        self._cursors |= cursors
        await self._trim([partition for partition in stored if partition not in self.behind])

    def _stored_cursors(self, partitions: Collection[int]) -> tuple[dict[int, str], dict[int, bytes]]:
        """The last entry of each partition that is stored, and its record."""
        everywhere = {
            int(name.removeprefix(CURSOR_PREFIX)): stream_id
            for name, stream_id in self._store.cursors.starting_with(CURSOR_PREFIX).items()
        }
        cursors = {partition: at for partition, at in everywhere.items() if partition in partitions}
        found = {p: self._store.decisions.get(decision_id_of(p, stream_id)) for p, stream_id in cursors.items()}
        return cursors, {partition: each.record for partition, each in found.items() if each is not None}

    async def _look_for_lost_tails(self, cursors: Mapping[int, str]) -> None:
        """Compare what stands at these cursors with what was stored. A partition that lost a tail is left alone until it
        begins a new epoch: its entries have ids of decisions that are stored. Raises Overtaken."""
        asked = {partition: at for partition, at in cursors.items() if at != STREAM_START}
        if not asked:
            return
        missing = {}
        for partition, mark in (await self._control.marks(asked)).items():
            if mark.end[0] > place_of(asked[partition])[0] or mark.record == self._marks.get(partition):
                self.behind.discard(partition)
            elif partition not in self.behind:
                missing[partition] = mark.end
        if missing:
            await asyncio.to_thread(self._expect, {partition: asked[partition] for partition in missing})
        for partition, end in missing.items():
            self.behind.add(partition)
            _log.error("Redis lost a tail", partition=partition, redis=end, store=asked[partition])
        LOST_TAILS.set(len(self.behind))

    def _expect(self, cursors: Mapping[int, str]) -> None:
        """Whoever had a partition before may have stored a last batch since its cursor was read here, and trimmed what was
        read: then it's not Redis that lost it. Raises Overtaken."""
        names = {f"{CURSOR_PREFIX}{partition:03d}": stream_id for partition, stream_id in cursors.items()}
        with self._store.database.reading() as connection:
            self._store.cursors.expect(names, connection)

    async def _trim(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            await self._control.trim_outbox(partition, self._cursors[partition], self._marks.get(partition, b""))

    async def _take(self, entries: StreamEntries) -> int:
        stored, stuck = await self._read(entries)
        self._note_held(stuck, {partition for partition, _, _ in entries})
        if not stored:
            return 0
        self._count_gaps(stored)
        cursors = {each.partition: each.stream_id for each in stored}
        await asyncio.to_thread(self._write, [each.extract for each in stored], cursors)
        self._cursors |= cursors
        self._marks |= {each.partition: each.raw for each in stored}
        await self._trim(cursors)
        self._tell([each.record for each in stored])
        return len(stored)

    async def _read(self, entries: StreamEntries) -> tuple[list[Stored], dict[int, tuple[str, str]]]:
        """What can be stored, and per partition the entry (with the fault) that can't: nothing behind it is taken."""
        stored: list[Stored] = []
        stuck: dict[int, tuple[str, str]] = {}
        for partition, stream_id, raw in entries:
            if partition in stuck:
                continue
            try:
                record = decode_record(raw)
                policy = self._policies.get(record.policy) or await self._policy(partition, record.policy)
                follows = extract(decision_id_of(partition, stream_id), record, policy, raw)
            except (msgspec.MsgspecError, NotPrepared, ValueError, LookupError, TypeError) as exc:
                stuck[partition] = (stream_id, f"{type(exc).__name__}: {exc}")
            else:
                stored.append(Stored(partition, stream_id, raw, record, follows))
        return stored, stuck

    def _note_held(self, stuck: dict[int, tuple[str, str]], read: set[int]) -> None:
        for partition, (stream_id, fault) in stuck.items():
            if self._held.get(partition) != stream_id:
                _log.error("a record can't be read", decision_id=decision_id_of(partition, stream_id), fault=fault)
        kept = {partition: stream_id for partition, stream_id in self._held.items() if partition not in read}
        self._held = kept | {partition: stream_id for partition, (stream_id, _) in stuck.items()}
        HELD.set(len(self._held))

    async def _policy(self, partition: int, digest: str) -> EffectivePolicy:
        """A cited policy; one that the store lacks is taken from Redis and kept, as a decision now cites it."""
        policy = await asyncio.to_thread(self._store.policies.effective, digest)
        if policy is None:
            policy = await self._control.get_policy(partition, digest)
            await asyncio.to_thread(self._store.policies.save_effective, {digest: policy.encode()})
        if len(self._policies) > 10_000:
            self._policies.clear()
        self._policies[digest] = policy
        return policy

    def _write(self, extracts: Sequence[Extract], cursors: dict[int, str]) -> None:
        store = self._store
        after = {f"{CURSOR_PREFIX}{partition:03d}": stream_id for partition, stream_id in cursors.items()}
        stood = {f"{CURSOR_PREFIX}{partition:03d}": self._cursors[partition] for partition in cursors}
        before = {name: stream_id if stream_id != STREAM_START else None for name, stream_id in stood.items()}
        with store.database.writing() as connection:
            # Two daemons may overlap for a moment, and both must see what the other stored before they add it up.
            store.database.alone(connection, RELAY_LOCK)
            ids = [each.decision["decision_id"] for each in extracts]
            known = store.decisions.known(connection, ids)
            new = [each for each in extracts if each.decision["decision_id"] not in known]
            store.decisions.insert(connection, [each.decision for each in new])
            usage = store.usage.insert(connection, [row for each in new for row in each.usage])
            store.deliveries.insert(
                connection,
                [
                    {"sink": USAGE_SINK, "position": position, "item_id": event_id, "created_at_us": at_us}
                    for position, event_id, at_us in usage
                ],
            )
            store.corrections.insert(connection, [each.correction for each in new if each.correction is not None])
            events = [event for each in new for event in each.events] + self._duplicates(connection, new)
            positions = store.guardrail_events.insert(connection, events)
            store.deliveries.insert(
                connection,
                [
                    {"sink": POLICY_SINK, "position": positions[e.id], "item_id": e.id, "created_at_us": e.at_us}
                    for e in events
                    if "stopped" in (e.from_state, e.to_state)
                ],
            )
            store.usage.add_rollups(connection, _merged(row for each in new for row in each.rollups))
            store.cursors.advance(before, after, connection)

    def _duplicates(self, connection: sa.Connection, new: Sequence[Extract]) -> list[GuardrailEvent]:
        """What debits an event that was debited before, so long ago that the gate had forgotten it, or before Redis lost a
        tail."""
        debits = {
            each.decision["decision_id"]: each.decision
            for each in new
            if each.usage and each.decision["mode"] != "correct"
        }
        again = self._store.decisions.debited_before(connection, list(debits))
        return [duplicate_event(debits[decision_id], first) for decision_id, first in again.items()]

    def _count_gaps(self, stored: Sequence[Stored]) -> None:
        cursors = dict(self._cursors)
        for each in stored:
            epoch, sequence = place_of(each.stream_id)
            last_epoch, last_sequence = place_of(cursors[each.partition])
            expected = last_sequence + 1 if epoch == last_epoch else 1
            if sequence != expected and cursors[each.partition] != STREAM_START:
                GAPS.inc(sequence - expected)
                _log.error("outbox gap", partition=each.partition, expected=expected, found=sequence, epoch=epoch)
            cursors[each.partition] = each.stream_id

    def _tell(self, records: Sequence[Record]) -> None:
        RELAY_LAG.set(max(0.0, time.time() - max(record.now_us for record in records) / 1_000_000))
        for kind, count in Counter(record.kind for record in records).items():
            STORED.labels(kind).inc(count)
        for record in records:
            if record.kind == "finish" and record.mode in ("commit", "release", "expire"):
                RESERVATIONS_ENDED.labels(record.result.reason).inc()
        touched = {record.customer_id for record in records}
        for observer in self._observers:
            observer(touched)


def place_of(stream_id: str) -> tuple[int, int]:
    """Epoch and sequence."""
    epoch, sequence = stream_id.split("-")
    return int(epoch), int(sequence)


def _merged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per bucket: a statement may touch a row only once."""
    buckets: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["customer_id"], row["meter"], row["width_seconds"], row["start_seconds"])
        bucket = buckets.get(key)
        if bucket is None:
            buckets[key] = dict(row)
            continue
        for name in ("units", "allowed", "throttled", "stopped"):
            bucket[name] += row[name]
    return list(buckets.values())
