"""The clients: one line in an agent loop.

`Gate` is for asyncio, `SyncGate` for threads. Both check the event, run one script, and return what it decided;
they share everything but the waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from spendgate.decide import Mode
from spendgate.decision import Decision
from spendgate.errors import Conflict, InvalidEvent, NotPrepared, SpendgateError, UnknownMeter
from spendgate.event import MAX_NUMBER, MAX_QUANTITY, MetadataValue, UsageEvent, check_id, usage_event
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.policy import EffectivePolicy, decode_policy
from spendgate.record import Record, decode_record
from spendgate.script import DECIDE, SNAPSHOT
from spendgate.snapshot import Snapshot, snapshot_of
from spendgate.transports import Argument, SyncTransport, Transport, connect, connect_sync

DEFAULT_TIMEOUT_SECONDS: Final = 1.0
IDEMPOTENCY_WINDOW_US: Final = 15 * 60 * 1_000_000
"""An allowed event is remembered at least this long, at most twice."""

_POLICIES_CACHED: Final = 4096


class _Policies:
    """Policies by digest. They are immutable, so nothing in here is ever stale."""

    def __init__(self) -> None:
        self._by_digest: dict[str, EffectivePolicy] = {}

    def get(self, digest: str) -> EffectivePolicy | None:
        return self._by_digest.get(digest)

    def add(self, digest: str, encoded: bytes | None) -> EffectivePolicy:
        if encoded is None:
            raise NotPrepared(f"Redis holds no policy {digest}")
        if len(self._by_digest) >= _POLICIES_CACHED:
            self._by_digest.pop(next(iter(self._by_digest)))
        policy = self._by_digest[digest] = decode_policy(encoded)
        return policy


def _decide_arguments(event: UsageEvent, mode: Mode, *, dry_run: bool) -> list[Argument]:
    return [
        tag_of(partition_of(event.customer_id)),
        event.customer_id,
        event.encode(),
        mode,
        "1" if dry_run else "",
        event.identity(),
        event.fingerprint(),
        IDEMPOTENCY_WINDOW_US,
    ]


def _policy_key(record: Record) -> str:
    return f"{tag_of(partition_of(record.customer_id))}policy:{record.policy}"


def _decoded(reply: Sequence[Any], event: UsageEvent | None, customer_id: str) -> Record:
    """The record in a script's reply, or the error it names."""
    if reply[0] == b"error":
        raise _error_of(reply[1].decode(), reply[2].decode(), event, customer_id)
    return decode_record(reply[2])


def _error_of(code: str, subject: str, event: UsageEvent | None, customer_id: str) -> SpendgateError:
    if code == "not_prepared":
        return NotPrepared("Redis holds no Spendgate installation: start the daemon once")
    if code == "no_policy":
        return NotPrepared(f"no policy document is loaded for customer {customer_id!r}: start the daemon once")
    if event is None:
        return SpendgateError(f"{code}: {subject}")
    quantity_field = "quantity" if len(event.quantities) == 1 else "quantities"
    errors: dict[str, SpendgateError] = {
        "conflict": Conflict(event.customer_id, event.event_id),
        "unknown_meter": UnknownMeter("meter" if len(event.quantities) == 1 else f"quantities.{subject}", subject),
        "invalid_quantity": InvalidEvent(quantity_field, f"a whole number from 1 to {MAX_QUANTITY}"),
        "counter_full": InvalidEvent(quantity_field, f"small enough to keep limit {subject!r} below {MAX_NUMBER}"),
        "cost_too_large": InvalidEvent(quantity_field, f"small enough to cost at most {MAX_NUMBER} micro-credits"),
        "metadata_not_a_number": InvalidEvent(f"metadata.{subject}", f"a whole number from 0 to {MAX_NUMBER}"),
    }
    return errors.get(code) or SpendgateError(f"{code}: {subject}")


def _decision(reply: Sequence[Any], record: Record, policy: EffectivePolicy) -> Decision:
    status, stream_id, _, at_us = reply
    return Decision(status.decode(), stream_id.decode(), record, policy, int(at_us))


class Gate:
    """The gate for asyncio code. Make one per process and close it at the end; it may be shared by all tasks.

    Every method raises GateUnavailable when Redis does not answer within the timeout, and NotPrepared when the
    daemon has never run against this Redis.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._policies = _Policies()

    @classmethod
    def from_url(cls, url: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Self:
        """`url` as redis-py reads it: `redis://`, `rediss://` or `unix://`. Connects on first use."""
        return cls(connect(url, timeout_seconds))

    async def decide(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        quantities: Mapping[str, int] | None = None,
        event_id: str | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
        occurred_at: datetime | None = None,
        traceparent: str | None = None,
        dry_run: bool = False,
    ) -> Decision:
        """Decide one event and, if allowed, debit it.

        Idempotent per (customer_id, event_id): repeating an allowed event debits nothing and gives the same
        answer; repeating a denied one decides afresh. `dry_run` decides and writes nothing. Raises InvalidEvent,
        UnknownMeter and Conflict.
        """
        event = usage_event(
            customer_id,
            meter,
            quantity,
            quantities=quantities,
            event_id=event_id,
            metadata=metadata,
            occurred_at=occurred_at,
            traceparent=traceparent,
        )
        return await self.submit(event, dry_run=dry_run)

    async def record(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        quantities: Mapping[str, int] | None = None,
        event_id: str | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
        occurred_at: datetime | None = None,
        traceparent: str | None = None,
    ) -> Decision:
        """Record usage that already happened: debited whatever the limits say, never denied."""
        event = usage_event(
            customer_id,
            meter,
            quantity,
            quantities=quantities,
            event_id=event_id,
            metadata=metadata,
            occurred_at=occurred_at,
            traceparent=traceparent,
        )
        return await self.submit(event, mode="record")

    async def submit(self, event: UsageEvent, *, mode: Mode = "decide", dry_run: bool = False) -> Decision:
        """Decide an event that is already validated (see `usage_event`)."""
        arguments = _decide_arguments(event, mode, dry_run=dry_run)
        reply = await self._transport.run(DECIDE, counters_key(event.customer_id), arguments)
        record = _decoded(reply, event, event.customer_id)
        return _decision(reply, record, await self._policy(record))

    async def snapshot(self, customer_id: str) -> Snapshot:
        """The customer now, read in one atomic step. An unknown customer has `state` None."""
        check_id("customer_id", customer_id)
        arguments = [tag_of(partition_of(customer_id)), customer_id]
        reply = await self._transport.run(SNAPSHOT, counters_key(customer_id), arguments)
        record = _decoded(reply, None, customer_id)
        return snapshot_of(record, await self._policy(record))

    async def snapshots(self, customer_ids: Sequence[str]) -> list[Snapshot]:
        """Several customers, each read atomically, in the order given."""
        return list(await asyncio.gather(*(self.snapshot(customer_id) for customer_id in customer_ids)))

    async def _policy(self, record: Record) -> EffectivePolicy:
        policy = self._policies.get(record.policy)
        if policy is None:
            policy = self._policies.add(record.policy, await self._transport.get(_policy_key(record)))
        return policy

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class SyncGate:
    """The gate for threads: the methods of `Gate` without `await`. One instance serves all threads."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport
        self._policies = _Policies()

    @classmethod
    def from_url(cls, url: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Self:
        """`url` as redis-py reads it: `redis://`, `rediss://` or `unix://`. Connects on first use."""
        return cls(connect_sync(url, timeout_seconds))

    def decide(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        quantities: Mapping[str, int] | None = None,
        event_id: str | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
        occurred_at: datetime | None = None,
        traceparent: str | None = None,
        dry_run: bool = False,
    ) -> Decision:
        """See `Gate.decide`."""
        event = usage_event(
            customer_id,
            meter,
            quantity,
            quantities=quantities,
            event_id=event_id,
            metadata=metadata,
            occurred_at=occurred_at,
            traceparent=traceparent,
        )
        return self.submit(event, dry_run=dry_run)

    def submit(self, event: UsageEvent, *, mode: Mode = "decide", dry_run: bool = False) -> Decision:
        """See `Gate.submit`."""
        arguments = _decide_arguments(event, mode, dry_run=dry_run)
        reply = self._transport.run(DECIDE, counters_key(event.customer_id), arguments)
        record = _decoded(reply, event, event.customer_id)
        return _decision(reply, record, self._policy(record))

    def snapshot(self, customer_id: str) -> Snapshot:
        """See `Gate.snapshot`."""
        check_id("customer_id", customer_id)
        arguments = [tag_of(partition_of(customer_id)), customer_id]
        reply = self._transport.run(SNAPSHOT, counters_key(customer_id), arguments)
        record = _decoded(reply, None, customer_id)
        return snapshot_of(record, self._policy(record))

    def _policy(self, record: Record) -> EffectivePolicy:
        policy = self._policies.get(record.policy)
        if policy is None:
            policy = self._policies.add(record.policy, self._transport.get(_policy_key(record)))
        return policy

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
