"""The client for threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from spendgate.calls import (
    DEADLINE_SECONDS,
    DEFAULT_TIMEOUT_SECONDS,
    Finished,
    Policies,
    actual_of,
    decide_arguments,
    decision_of,
    digest_of,
    finish_arguments,
    finished_of,
    lifetime_us_of,
    policy_key,
    signing_key_of,
    token_given,
)
from spendgate.decide import Mode
from spendgate.decision import Decision
from spendgate.errors import GateUnavailable, InvalidEvent
from spendgate.event import EventFields, UsageEvent, check_id, usage_event
from spendgate.guard import guard_sync
from spendgate.keys import SIGNING_KEY, counters_key, customer_tag
from spendgate.outage import Outage, on_disk_sync, outage_of
from spendgate.policy import EffectivePolicy
from spendgate.record import decode_record
from spendgate.reservation import Action
from spendgate.run import SyncRun
from spendgate.script import DECIDE, FINISH_RESERVATION, SNAPSHOT
from spendgate.snapshot import Snapshot, snapshot_of
from spendgate.token import ReservationToken, read_token
from spendgate.transports import SyncTransport, connect_sync


class SyncGate:
    """The gate for threads: the methods of `Gate` without `await`. One instance serves all threads."""

    guard = guard_sync

    def __init__(
        self, transport: SyncTransport, *, outage: Outage | None = None, policies: Policies | None = None
    ) -> None:
        self._transport = transport
        self._policies = policies or Policies()
        self._secret: bytes | None = None
        self.outage = outage

    @classmethod
    def from_url(cls, url: str, *, timeout_seconds: float | None = None, journal: Path | str | None = None) -> Self:
        """See `Gate.from_url`."""
        if journal is None:
            return cls(connect_sync(url, timeout_seconds or DEFAULT_TIMEOUT_SECONDS))
        transport, policies = connect_sync(url, timeout_seconds or DEADLINE_SECONDS), Policies()
        return cls(transport, outage=outage_of(url, journal, policies), policies=policies)

    def decide(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        dry_run: bool = False,
        **fields: Unpack[EventFields],
    ) -> Decision:
        """See `Gate.decide`."""
        event = usage_event(customer_id, meter, quantity, **fields)
        return self.submit(event, dry_run=dry_run)

    def record(
        self, customer_id: str, meter: str | None = None, quantity: int | None = None, **fields: Unpack[EventFields]
    ) -> Decision:
        """See `Gate.record`."""
        event = usage_event(customer_id, meter, quantity, **fields)
        return self.submit(event, mode="record")

    def reserve(
        self,
        customer_id: str,
        meter: str | None = None,
        quantity: int | None = None,
        *,
        lifetime_seconds: int | None = None,
        **fields: Unpack[EventFields],
    ) -> SyncRun:
        """See `Gate.reserve`; here it is `with gate.reserve(...) as run`."""
        event = usage_event(customer_id, meter, quantity, **fields)
        lifetime_us_of(lifetime_seconds)
        return SyncRun(self, event, lifetime_seconds)

    def submit(
        self, event: UsageEvent, *, mode: Mode = "decide", dry_run: bool = False, lifetime_seconds: int | None = None
    ) -> Decision:
        """See `Gate.submit`."""
        outage, lifetime_us = self.outage, lifetime_us_of(lifetime_seconds)
        if outage is None or dry_run:
            return self._submit(event, mode, lifetime_us, dry_run=dry_run)
        try:
            if outage.is_open:
                raise outage.not_asked()
            return self._submit(event, mode, lifetime_us)
        except GateUnavailable as failure:
            outage.failed(failure)
            decision, durable = outage.decide(event, mode, lifetime_us, failure)
        if durable is not None:
            on_disk_sync(durable)
        if mode == "reserve" and decision.allowed:
            decision.reservation_id = outage.sign(decision)
        return decision

    def _submit(self, event: UsageEvent, mode: Mode, lifetime_us: int, *, dry_run: bool = False) -> Decision:
        arguments = decide_arguments(event, mode, dry_run=dry_run, lifetime_us=lifetime_us)
        reply = self._transport.run(DECIDE, counters_key(event.customer_id), arguments)
        digest = digest_of(reply, event, event.customer_id)
        policy = self._policies.get(digest) or self._fetch_policy(event.customer_id, digest)
        decision = decision_of(reply, event, policy)
        if self.outage is not None:
            self.outage.answered(event.customer_id, reply[4])
        if mode == "reserve" and decision.allowed and not dry_run:
            decision.reservation_id = token_given(decision).sign(self._signing_key())
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
        outage = self.outage
        if outage is None:
            return self._finish(token, action, actual, by_us)
        try:
            if outage.is_open:
                raise outage.not_asked()
            finished = self._finish(token, action, actual, by_us)
        except GateUnavailable as failure:
            outage.failed(failure)
            finished, durable = outage.finish(token, action, dict(actual), failure)
            on_disk_sync(durable)
        else:
            outage.finished(token, finished)
        return finished

    def _finish(self, token: ReservationToken, action: Action, actual: Mapping[str, int], by_us: int) -> Finished:
        arguments = finish_arguments(token, action, actual, by_us)
        return finished_of(self._transport.run(FINISH_RESERVATION, counters_key(token.customer_id), arguments), token)

    def read_token(self, reservation_id: str) -> ReservationToken:
        """See `Gate.read_token`."""
        return read_token(reservation_id, self._signing_key())

    def snapshot(self, customer_id: str) -> Snapshot:
        """See `Gate.snapshot`."""
        check_id("customer_id", customer_id)
        arguments = [customer_tag(customer_id), customer_id]
        reply = self._transport.run(SNAPSHOT, counters_key(customer_id), arguments)
        digest = digest_of(reply, None, customer_id)
        policy = self._policies.get(digest) or self._fetch_policy(customer_id, digest)
        return snapshot_of(decode_record(reply[4]), policy)

    def _fetch_policy(self, customer_id: str, digest: str) -> EffectivePolicy:
        return self._policies.add(digest, self._get(policy_key(customer_id, digest)))

    def _get(self, key: str) -> bytes | None:
        """The script that made this necessary may have written: what fails here can't say that nothing was."""
        try:
            return self._transport.get(key)
        except GateUnavailable as exc:
            raise GateUnavailable(str(exc), "unknown") from exc

    def _signing_key(self) -> bytes:
        if self._secret is None and self.outage is not None:
            self._secret = self.outage.signing_key
        if self._secret is None:
            self._secret = signing_key_of(self._get(SIGNING_KEY))
        return self._secret

    def close(self) -> None:
        """Close all connections, and leave the journal to the next process."""
        self._transport.close()
        if self.outage is not None:
            self.outage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
