"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from spendgate.calls import (
    DEADLINE_SECONDS,
    DEFAULT_TIMEOUT_SECONDS,
    RESERVATIONS_LISTED,
    Finished,
    OpenReservation,
    Policies,
    actual_of,
    decide_arguments,
    decision_of,
    digest_of,
    finish_arguments,
    finished_of,
    lifetime_us_of,
    policy_key,
    reservations_of,
    signing_key_of,
    token_given,
)
from spendgate.decide import Mode
from spendgate.decision import Decision
from spendgate.errors import GateUnavailable, InvalidEvent
from spendgate.event import EventFields, UsageEvent, check_id, usage_event
from spendgate.guard import guard
from spendgate.keys import SIGNING_KEY, counters_key, customer_tag
from spendgate.outage import Outage, on_disk, outage_of
from spendgate.policy import EffectivePolicy
from spendgate.record import decode_record
from spendgate.reservation import Action
from spendgate.run import Run
from spendgate.script import DECIDE, FINISH_RESERVATION, RESERVED, SNAPSHOT
from spendgate.snapshot import Snapshot, snapshot_of
from spendgate.token import ReservationToken, read_token
from spendgate.transports import Argument, Transport, connect


class Gate:
    """The gate for asyncio code. Make one per process and close it at the end; it may be shared by all tasks.

    Every method raises GateUnavailable when Redis does not answer within the timeout, and NotPrepared when the
    daemon has never run against this Redis.
    """

    guard = guard

    def __init__(self, transport: Transport, *, outage: Outage | None = None, policies: Policies | None = None) -> None:
        self._transport = transport
        self._policies = policies or Policies()
        self._secret: bytes | None = None
        self.outage = outage

    @classmethod
    def from_url(cls, url: str, *, timeout_seconds: float | None = None, journal: Path | str | None = None) -> Self:
        """`url`: see `transports.address`. Connects on first use.

        With `journal`, a folder on a disk of this machine, the plan's outage allowance passes while Redis does not answer
        within the timeout (20 ms by default); see `Outage`. Without one there is nothing better to do than to wait, and
        the default is a second. A gate with a journal belongs to the process that made it: make it after a fork. Raises
        ValueError for a URL that can't be used, and OSError for a folder that can hold no journal.
        """
        if journal is None:
            return cls(connect(url, timeout_seconds or DEFAULT_TIMEOUT_SECONDS))
        transport, policies = connect(url, timeout_seconds or DEADLINE_SECONDS), Policies()
        return cls(transport, outage=outage_of(url, journal, policies), policies=policies)

    async def decide(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        dry_run: bool = False,
        **fields: Unpack[EventFields],
    ) -> Decision:
        """Decide one event and, if allowed, debit it. `fields`: see `EventFields`.

        Idempotent per (customer_id, event_id): repeating an allowed event debits nothing and gives the same
        answer; repeating a denied one decides afresh. `dry_run` decides and writes nothing. Raises InvalidEvent,
        UnknownMeter and Conflict.
        """
        event = usage_event(customer_id, meter, quantity, **fields)
        return await self.submit(event, dry_run=dry_run)

    async def record(
        self, customer_id: str, meter: str | None = None, quantity: int | None = None, **fields: Unpack[EventFields]
    ) -> Decision:
        """Record usage that already happened: debited whatever the limits say, never denied."""
        event = usage_event(customer_id, meter, quantity, **fields)
        return await self.submit(event, mode="record")

    def reserve(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        lifetime_seconds: int | None = None,
        **fields: Unpack[EventFields],
    ) -> Run:
        """Hold a quantity while a run finds out what it really uses: `async with gate.reserve(...) as run`.

        Entering raises Denied when the event does not fit; see `Run` for how it ends. `lifetime_seconds` None is
        what the plan gives. Raises InvalidEvent.
        """
        event = usage_event(customer_id, meter, quantity, **fields)
        lifetime_us_of(lifetime_seconds)
        return Run(self, event, lifetime_seconds)

    async def submit(
        self, event: UsageEvent, *, mode: Mode = "decide", dry_run: bool = False, lifetime_seconds: int | None = None
    ) -> Decision:
        """Decide an event that is already validated (see `usage_event`). With mode `reserve`, the decision has a
        `reservation_id` if it allows."""
        outage, lifetime_us = self.outage, lifetime_us_of(lifetime_seconds)
        if outage is None or dry_run:
            return await self._submit(event, mode, lifetime_us, dry_run=dry_run)
        try:
            if outage.is_open:
                raise outage.not_asked()
            return await self._submit(event, mode, lifetime_us)
        except GateUnavailable as failure:
            outage.failed(failure)
            decision, durable = outage.decide(event, mode, lifetime_us, failure)
        if durable is not None:
            await on_disk(durable)
        if mode == "reserve" and decision.allowed:
            decision.reservation_id = outage.sign(decision)
        return decision

    async def _submit(self, event: UsageEvent, mode: Mode, lifetime_us: int, *, dry_run: bool = False) -> Decision:
        arguments = decide_arguments(event, mode, dry_run=dry_run, lifetime_us=lifetime_us)
        reply = await self._transport.run(DECIDE, counters_key(event.customer_id), arguments)
        digest = digest_of(reply, event, event.customer_id)
        policy = self._policies.get(digest) or await self._fetch_policy(event.customer_id, digest)
        decision = decision_of(reply, event, policy)
        if self.outage is not None:
            self.outage.answered(event.customer_id, reply[4])
        if mode == "reserve" and decision.allowed and not dry_run:
            decision.reservation_id = token_given(decision).sign(await self._signing_key())
        return decision

    async def commit(
        self, reservation_id: str, quantity: int | None = None, *, quantities: Mapping[str, int] | None = None
    ) -> Finished:
        """End a reservation with what was really used; less than reserved frees the rest.

        More than was reserved, and any use of a meter that was not, is what the plan says: debited all the same
        (`overage`), debited up to what was reserved, so nothing of such a meter (`cap`), or refused (`reject`).
        Idempotent: the same commit again gives the same answer. Raises InvalidEvent (AboveReserved where the plan
        rejects; the reservation is then still open), ReservationFinished when it has ended otherwise, and
        UnknownReservation.
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
        outage = self.outage
        if outage is None:
            return await self._finish(token, action, actual, by_us)
        try:
            if outage.is_open:
                raise outage.not_asked()
            finished = await self._finish(token, action, actual, by_us)
        except GateUnavailable as failure:
            outage.failed(failure)
            finished, durable = outage.finish(token, action, dict(actual), failure)
            await on_disk(durable)
        else:
            outage.finished(token, finished)
        return finished

    async def _finish(self, token: ReservationToken, action: Action, actual: Mapping[str, int], by_us: int) -> Finished:
        arguments = finish_arguments(token, action, actual, by_us)
        reply = await self._transport.run(FINISH_RESERVATION, counters_key(token.customer_id), arguments)
        return finished_of(reply, token)

    async def read_token(self, reservation_id: str) -> ReservationToken:
        """What a reservation id says. Raises UnknownReservation for one that this installation did not sign."""
        return read_token(reservation_id, await self._signing_key())

    async def reservations(self, customer_id: str) -> tuple[list[OpenReservation], int]:
        """The customer's open reservations, the first 100 to end, and how many there are in all."""
        check_id("customer_id", customer_id)
        arguments: list[Argument] = [customer_tag(customer_id), customer_id, RESERVATIONS_LISTED]
        return reservations_of(await self._transport.run(RESERVED, counters_key(customer_id), arguments), customer_id)

    async def snapshot(self, customer_id: str) -> Snapshot:
        """The customer now, read in one atomic step. An unknown customer has `state` None."""
        check_id("customer_id", customer_id)
        arguments = [customer_tag(customer_id), customer_id]
        reply = await self._transport.run(SNAPSHOT, counters_key(customer_id), arguments)
        digest = digest_of(reply, None, customer_id)
        policy = self._policies.get(digest) or await self._fetch_policy(customer_id, digest)
        return snapshot_of(decode_record(reply[4]), policy)

    async def snapshots(self, customer_ids: Sequence[str]) -> list[Snapshot]:
        """Several customers, each read atomically, in the order given."""
        return list(await asyncio.gather(*(self.snapshot(customer_id) for customer_id in customer_ids)))

    async def _fetch_policy(self, customer_id: str, digest: str) -> EffectivePolicy:
        return self._policies.add(digest, await self._get(policy_key(customer_id, digest)))

    async def _get(self, key: str) -> bytes | None:
        """The script that made this necessary may have written: what fails here can't say that nothing was."""
        try:
            return await self._transport.get(key)
        except GateUnavailable as exc:
            raise GateUnavailable(str(exc), "unknown") from exc

    async def _signing_key(self) -> bytes:
        if self._secret is None and self.outage is not None:
            self._secret = self.outage.signing_key
        if self._secret is None:
            self._secret = signing_key_of(await self._get(SIGNING_KEY))
        return self._secret

    async def aclose(self) -> None:
        """Close all connections, and leave the journal to the next process."""
        await self._transport.aclose()
        if self.outage is not None:
            await asyncio.to_thread(self.outage.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
