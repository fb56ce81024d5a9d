"""The store relay: outbox → store, the only reader of the outbox.

Rows and cursor are one transaction, so a kill at any point repeats a batch that changes nothing or was never seen. The
outbox is trimmed only up to what the store has for good. A missing sequence number means that Redis lost a record that it
had acknowledged; it is counted and logged, never passed over in silence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from spendgate.control import STREAM_START, Control, StreamEntries
from spendgate.keys import PARTITIONS, decision_id_of
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record
from spendgate_daemon.relays.extract import Extract, extract
from spendgate_daemon.relays.metrics import GAPS, RELAY_LAG, STORED
from spendgate_daemon.store import Store

USAGE_SINK: Final = "usagebox.usage"
POLICY_SINK: Final = "usagebox.policy"
CURSOR_PREFIX: Final = "outbox."
RECORDS_PER_PARTITION: Final = 500

_log = structlog.get_logger("spendgate.relay.store")


class StoreRelay:
    """`observers` are told the customers of each stored batch."""

    def __init__(self, control: Control, store: Store, observers: Iterable[Callable[[set[str]], None]] = ()) -> None:
        self._control = control
        self._store = store
        self._observers = tuple(observers)
        self._cursors: dict[int, str] | None = None
        self._saved_policies: set[str] = set()

    async def run_once(self) -> int:
        """Store what is in the outbox now, at most RECORDS_PER_PARTITION of each partition; how many records."""
        if self._cursors is None:
            self._cursors = await self._resume()
        entries = await self._control.read_outbox(self._cursors, RECORDS_PER_PARTITION)
        if not entries:
            return 0
        records = [(partition, stream_id, decode_record(raw), raw) for partition, stream_id, raw in entries]
        policies = await self._policies({(partition, record.policy) for partition, _, record, _ in records})
        self._count_gaps(entries)
        extracts = [
            extract(decision_id_of(partition, stream_id), record, policies[record.policy], raw)
            for partition, stream_id, record, raw in records
        ]
        cursors = {partition: stream_id for partition, stream_id, _ in entries}
        await asyncio.to_thread(self._write, extracts, cursors)
        self._cursors |= cursors
        for partition, stream_id in cursors.items():
            await self._control.trim_outbox(partition, stream_id)
        self._tell(records)
        return len(entries)

    async def _resume(self) -> dict[int, str]:
        """Cursors from the store; what they cover is trimmed, in case the last run was killed before it did so."""
        stored = await asyncio.to_thread(self._store.cursors.starting_with, CURSOR_PREFIX)
        cursors = {p: stored.get(f"{CURSOR_PREFIX}{p:03d}", STREAM_START) for p in range(PARTITIONS)}
        for partition, stream_id in cursors.items():
            if stream_id != STREAM_START:
                await self._control.trim_outbox(partition, stream_id)
        return cursors

    async def _policies(self, cited: set[tuple[int, str]]) -> dict[str, EffectivePolicy]:
        """The cited policies; one that the store lacks is taken from Redis and kept, as a decision now cites it."""
        found: dict[str, EffectivePolicy] = {}
        for partition, digest in cited:
            policy = await asyncio.to_thread(self._store.policies.effective, digest)
            if policy is None:
                policy = await self._control.get_policy(partition, digest)
                await asyncio.to_thread(self._store.policies.save_effective, {digest: policy.encode()})
            found[digest] = policy
        return found

    def _write(self, extracts: list[Extract], cursors: dict[int, str]) -> None:
        store = self._store
        with store.database.writing() as connection:
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
            events = [event for each in new for event in each.events]
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
            names = {f"{CURSOR_PREFIX}{partition:03d}": stream_id for partition, stream_id in cursors.items()}
            store.cursors.put(names, connection)

    def _count_gaps(self, entries: StreamEntries) -> None:
        cursors = dict(self._cursors or {})
        for partition, stream_id, _ in entries:
            epoch, sequence = stream_id.split("-")
            last_epoch, last_sequence = cursors[partition].split("-")
            expected = int(last_sequence) + 1 if epoch == last_epoch else 1
            if int(sequence) != expected and cursors[partition] != STREAM_START:
                GAPS.inc(int(sequence) - expected)
                _log.error("outbox gap", partition=partition, expected=expected, found=int(sequence), epoch=epoch)
            cursors[partition] = stream_id

    def _tell(self, records: list[tuple[int, str, Record, bytes]]) -> None:
        newest_us = max(record.now_us for _, _, record, _ in records)
        RELAY_LAG.set(max(0.0, time.time() - newest_us / 1_000_000))
        for _, _, record, _ in records:
            STORED.labels(record.kind).inc()
        touched = {record.customer_id for _, _, record, _ in records}
        for observer in self._observers:
            observer(touched)


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
