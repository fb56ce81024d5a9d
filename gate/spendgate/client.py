"""The clients: one line in an agent loop.

`Gate` is for asyncio, `SyncGate` for threads. Both check the event, run one script, and return what it decided;
they share everything but the waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from spendgate.calls import (
    Finished,
    OpenReservation,
    Policies,
    actual_of,
    decide_arguments,
    decision_of,
    decoded,
    finish_arguments,
    finished_of,
    lifetime_us_of,
    policy_key,
    reservations_of,
)
from spendgate.decide import Mode
from spendgate.decision import Decision
from spendgate.errors import InvalidEvent, NotPrepared
from spendgate.event import MetadataValue, UsageEvent, check_id, usage_event
from spendgate.guard import guard, guard_sync
from spendgate.keys import SIGNING_KEY, counters_key, partition_of, tag_of
from spendgate.policy import EffectivePolicy
from spendgate.record import Record
from spendgate.reservation import Action
from spendgate.run import Run, SyncRun
from spendgate.script import DECIDE, FINISH_RESERVATION, RESERVED, SNAPSHOT
from spendgate.snapshot import Snapshot, snapshot_of
from spendgate.token import ReservationToken, read_token, token_of
from spendgate.transports import Argument, SyncTransport, Transport, connect, connect_sync

DEFAULT_TIMEOUT_SECONDS: Final = 1.0
RESERVATIONS_LISTED: Final = 100


class Gate:
    """The gate for asyncio code. Make one per process and close it at the end; it may be shared by all tasks.

    Every method raises GateUnavailable when Redis does not answer within the timeout, and NotPrepared when the
    daemon has never run against this Redis.
    """

    guard = guard

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._policies = Policies()
        self._secret: bytes | None = None

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

    def reserve(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        quantities: Mapping[str, int] | None = None,
        event_id: str | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
        traceparent: str | None = None,
        lifetime_seconds: int | None = None,
    ) -> Run:
        """Hold a quantity while a run finds out what it really uses: `async with gate.reserve(...) as run`.

        Entering raises Denied when the event does not fit; see `Run` for how it ends. `lifetime_seconds` None is
        what the plan gives. Raises InvalidEvent.
        """
        event = usage_event(
            customer_id,
            meter,
            quantity,
            quantities=quantities,
            event_id=event_id,
            metadata=metadata,
            traceparent=traceparent,
        )
        lifetime_us_of(lifetime_seconds)
        return Run(self, event, lifetime_seconds)

    async def submit(
        self, event: UsageEvent, *, mode: Mode = "decide", dry_run: bool = False, lifetime_seconds: int | None = None
    ) -> Decision:
        """Decide an event that is already validated (see `usage_event`). With mode `reserve`, the decision has a
        `reservation_id` if it allows."""
        arguments = decide_arguments(event, mode, dry_run=dry_run, lifetime_us=lifetime_us_of(lifetime_seconds))
        reply = await self._transport.run(DECIDE, counters_key(event.customer_id), arguments)
        record = decoded(reply, event, event.customer_id)
        decision = decision_of(reply, record, await self._policy(record))
        if mode == "reserve" and decision.allowed and not dry_run:
            decision.reservation_id = _token(decision).sign(await self._signing_key())
        return decision

    async def commit(
        self, reservation_id: str, quantity: int | None = None, *, quantities: Mapping[str, int] | None = None
    ) -> Finished:
        """End a reservation with what was really used; less than reserved frees the rest.

        Idempotent: the same commit again gives the same answer. Raises InvalidEvent (AboveReserved when the plan
        rejects more than was reserved; the reservation is then still open), ReservationFinished when it has ended
        otherwise, and UnknownReservation.
        """
        token = await self.read_token(reservation_id)
        return await self.finish(token, "commit", actual_of(token, quantity, quantities))

    async def release(self, reservation_id: str) -> Finished:
        """End a reservation of which nothing was used. Idempotent; raises as `commit` does."""
        return await self.finish(await self.read_token(reservation_id), "release", {})

    async def extend(self, reservation_id: str, seconds: int) -> Finished:
        """Move the deadline to `seconds` from now, if that is later; the plan bounds the whole lifetime. Raises
        InvalidEvent beyond it, ReservationFinished and UnknownReservation."""
        by_us = lifetime_us_of(seconds, "seconds")
        if not by_us:
            raise InvalidEvent("seconds", "a whole number of seconds")
        return await self.finish(await self.read_token(reservation_id), "extend", {}, by_us)

    async def finish(
        self, token: ReservationToken, action: Action, actual: Mapping[str, int], by_us: int = 0
    ) -> Finished:
        """End or extend the reservation of a token that was read by `read_token`."""
        arguments = finish_arguments(token, action, actual, by_us)
        return finished_of(
            await self._transport.run(FINISH_RESERVATION, counters_key(token.customer_id), arguments), token
        )

    async def read_token(self, reservation_id: str) -> ReservationToken:
        """What a reservation id says. Raises UnknownReservation for one that this installation did not sign."""
        return read_token(reservation_id, await self._signing_key())

    async def reservations(self, customer_id: str) -> tuple[list[OpenReservation], int]:
        """The customer's open reservations, the first 100 to end, and how many there are in all."""
        check_id("customer_id", customer_id)
        arguments: list[Argument] = [tag_of(partition_of(customer_id)), customer_id, RESERVATIONS_LISTED]
        return reservations_of(await self._transport.run(RESERVED, counters_key(customer_id), arguments), customer_id)

    async def snapshot(self, customer_id: str) -> Snapshot:
        """The customer now, read in one atomic step. An unknown customer has `state` None."""
        check_id("customer_id", customer_id)
        arguments = [tag_of(partition_of(customer_id)), customer_id]
        reply = await self._transport.run(SNAPSHOT, counters_key(customer_id), arguments)
        record = decoded(reply, None, customer_id)
        return snapshot_of(record, await self._policy(record))

    async def snapshots(self, customer_ids: Sequence[str]) -> list[Snapshot]:
        """Several customers, each read atomically, in the order given."""
        return list(await asyncio.gather(*(self.snapshot(customer_id) for customer_id in customer_ids)))

    async def _policy(self, record: Record) -> EffectivePolicy:
        policy = self._policies.get(record.policy)
        if policy is None:
            key = policy_key(record.customer_id, record.policy)
            policy = self._policies.add(record.policy, await self._transport.get(key))
        return policy

    async def _signing_key(self) -> bytes:
        if self._secret is None:
            self._secret = _secret_of(await self._transport.get(SIGNING_KEY))
        return self._secret

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

    guard = guard_sync

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport
        self._policies = Policies()
        self._secret: bytes | None = None

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

    def record(
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
        """See `Gate.record`."""
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
        return self.submit(event, mode="record")

    def reserve(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        quantities: Mapping[str, int] | None = None,
        event_id: str | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
        traceparent: str | None = None,
        lifetime_seconds: int | None = None,
    ) -> SyncRun:
        """See `Gate.reserve`; here it is `with gate.reserve(...) as run`."""
        event = usage_event(
            customer_id,
            meter,
            quantity,
            quantities=quantities,
            event_id=event_id,
            metadata=metadata,
            traceparent=traceparent,
        )
        lifetime_us_of(lifetime_seconds)
        return SyncRun(self, event, lifetime_seconds)

    def submit(
        self, event: UsageEvent, *, mode: Mode = "decide", dry_run: bool = False, lifetime_seconds: int | None = None
    ) -> Decision:
        """See `Gate.submit`."""
        arguments = decide_arguments(event, mode, dry_run=dry_run, lifetime_us=lifetime_us_of(lifetime_seconds))
        reply = self._transport.run(DECIDE, counters_key(event.customer_id), arguments)
        record = decoded(reply, event, event.customer_id)
        decision = decision_of(reply, record, self._policy(record))
        if mode == "reserve" and decision.allowed and not dry_run:
            decision.reservation_id = _token(decision).sign(self._signing_key())
        return decision

    def commit(
        self, reservation_id: str, quantity: int | None = None, *, quantities: Mapping[str, int] | None = None
    ) -> Finished:
        """See `Gate.commit`."""
        token = self.read_token(reservation_id)
        return self.finish(token, "commit", actual_of(token, quantity, quantities))

    def release(self, reservation_id: str) -> Finished:
        """See `Gate.release`."""
        return self.finish(self.read_token(reservation_id), "release", {})

    def extend(self, reservation_id: str, seconds: int) -> Finished:
        """See `Gate.extend`."""
        by_us = lifetime_us_of(seconds, "seconds")
        if not by_us:
            raise InvalidEvent("seconds", "a whole number of seconds")
        return self.finish(self.read_token(reservation_id), "extend", {}, by_us)

    def finish(self, token: ReservationToken, action: Action, actual: Mapping[str, int], by_us: int = 0) -> Finished:
        """See `Gate.finish`."""
        arguments = finish_arguments(token, action, actual, by_us)
        return finished_of(self._transport.run(FINISH_RESERVATION, counters_key(token.customer_id), arguments), token)

    def read_token(self, reservation_id: str) -> ReservationToken:
        """See `Gate.read_token`."""
        return read_token(reservation_id, self._signing_key())

    def snapshot(self, customer_id: str) -> Snapshot:
        """See `Gate.snapshot`."""
        check_id("customer_id", customer_id)
        arguments = [tag_of(partition_of(customer_id)), customer_id]
        reply = self._transport.run(SNAPSHOT, counters_key(customer_id), arguments)
        record = decoded(reply, None, customer_id)
        return snapshot_of(record, self._policy(record))

    def _policy(self, record: Record) -> EffectivePolicy:
        policy = self._policies.get(record.policy)
        if policy is None:
            policy = self._policies.add(
                record.policy, self._transport.get(policy_key(record.customer_id, record.policy))
            )
        return policy

    def _signing_key(self) -> bytes:
        if self._secret is None:
            self._secret = _secret_of(self._transport.get(SIGNING_KEY))
        return self._secret

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _token(decision: Decision) -> ReservationToken:
    return token_of(decision.event, decision.stream_id, decision.effective_at_us, decision.policy)


def _secret_of(stored: bytes | None) -> bytes:
    if stored is None:
        raise NotPrepared("Redis holds no key to sign reservations with: start the daemon once")
    return stored
