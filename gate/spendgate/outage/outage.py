"""The outage: when it is one, and what is answered then."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from spendgate.calls import Finished, Policies, policy_key
from spendgate.decide import Mode, Verdict
from spendgate.decision import DegradedDecision
from spendgate.errors import BacklogFull, GateUnavailable, NotPrepared, ScriptFailed, SpendgateError, UnknownMeter
from spendgate.event import UsageEvent
from spendgate.keys import SIGNING_KEY
from spendgate.outage.book import Book
from spendgate.outage.journal import Journal
from spendgate.outage.share import judge
from spendgate.outage.slot import RENEW_SECONDS, Slot, hold_slot, leave_slot
from spendgate.policy import ENGINE_VERSION, EffectivePolicy
from spendgate.record import Record, Result, decode_record
from spendgate.reservation import Action, Facts, ReservationStatus, committed_quantities
from spendgate.token import ReservationToken, token_of
from spendgate.transports import SyncTransport, forks

FAILURES_MAX: Final = 3
"""After so many calls in a row that Redis did not answer, it is asked no more until the caretaker has heard of it."""

CUSTOMERS_KNOWN: Final = 10_000
"""The last that were decided here; nothing is let pass for others."""

PROBE_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 1.0
CARETAKER_TIMEOUT_SECONDS: Final = 1.0
"""Of one call. Closing takes about as long once more."""

_log: Final = logging.getLogger("spendgate.outage")


class NotAsked(GateUnavailable):
    """Redis did not answer others."""


class Status(msgspec.Struct, frozen=True):
    """For metrics. `slot` 0: none is held; `refused` could not be debited and waits for a person."""

    slot: int
    slots: int
    is_open: bool
    unsettled: int
    refused: int
    let_pass: int


class Outage:
    """One for each process. A thread of its own, the caretaker, holds the slot and settles the journal.

    `journal` is a folder that outlives the process, on a disk of this machine: what was let pass is there before
    anybody is told. Processes of one machine may share it. Raises OSError where it can't be written. A forked child has
    neither caretaker nor share: nothing passes there while Redis is away.
    """

    def __init__(self, journal: Path, connect: Callable[[], SyncTransport], policies: Policies) -> None:
        self._folder = journal
        self._book = Book.open_free(journal)
        self._connect = connect
        self._policies = policies
        self._known: dict[str, bytes] = {}
        self._slot: Slot | None = None
        self._secret: bytes | None = None
        self._failures = 0
        self._let_pass = 0
        self._wake = threading.Event()
        self._generation = forks.generation()
        self._closing_until: float | None = None
        self._troubles: set[str] = set()
        self._cared = threading.Condition()
        self._rounds_begun = self._rounds_done = 0
        self._caretaker = threading.Thread(target=self._care, name="spendgate-outage", daemon=True)
        self._caretaker.start()

    @property
    def is_open(self) -> bool:
        """Whether Redis is not even asked now."""
        return self._failures >= FAILURES_MAX and not self._is_forked

    @property
    def _is_forked(self) -> bool:
        """Threads stay behind in a fork, and locks may be held for ever by them."""
        return self._generation != forks.generation()

    @property
    def signing_key(self) -> bytes | None:
        """Read while Redis was there, for reservations; None before that."""
        return self._secret

    @property
    def status(self) -> Status:
        slot = self._slot
        return Status(
            slot=slot.index if slot is not None else 0,
            slots=slot.count if slot is not None else 0,
            is_open=self.is_open,
            unsettled=self._book.unsettled,
            refused=self._book.refused,
            let_pass=self._let_pass,
        )

    def answered(self, customer_id: str, encoded: bytes) -> None:
        """Redis answered with this record: it is what is known of the customer from now on."""
        self._failures = 0
        known = self._known
        known.pop(customer_id, None)
        known[customer_id] = encoded
        if len(known) > CUSTOMERS_KNOWN:
            with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                known.pop(next(iter(known)))

    def failed(self, failure: GateUnavailable) -> None:
        """Redis did not answer. (A backlog is one partition's matter, and Redis is there; a call that was not made tells
        nothing.)"""
        if isinstance(failure, BacklogFull | NotAsked):
            return
        failures = self._failures = self._failures + 1
        if failures == FAILURES_MAX:
            self._wake.set()

    def not_asked(self) -> GateUnavailable:
        """The failure of a call that is not even made."""
        return NotAsked("Redis does not answer; it is asked again as soon as it is heard of", "no")

    def decide(
        self, event: UsageEvent, mode: Mode, lifetime_us: int, failure: GateUnavailable
    ) -> tuple[DegradedDecision, Future[None] | None]:
        """The answer to an event that Redis gave none to, and when it may be given: None is at once.

        Raises `failure` where nothing is known of the customer, and where nothing is let pass but Redis may have done
        so; InvalidEvent, UnknownMeter and Conflict as `decide` does.
        """
        if self._is_forked:
            raise failure
        encoded, slot = self._known.get(event.customer_id), self._slot
        record = decode_record(encoded) if encoded is not None else None
        policy = self._policies.get(record.policy) if record is not None else None
        if record is None or policy is None or slot is None or (mode == "reserve" and self._secret is None):
            raise failure
        now_us = slot.clock_us()
        with self._book.lock:
            before = self._book.given_before(event, mode)
            if before is not None:
                passed = judge(record, policy, event, "record", now_us, self._book.shares, slot)
                verdict = msgspec.structs.replace(passed.verdict, reason="allowed_in_outage")
                at_us = before.effective_at_us
                bound = passed.overshoot_bound
                decision = self._decision(record, policy, event, mode, at_us, verdict, bound, before.sequence)
                return decision, self._book.written(before)
            judged = judge(record, policy, event, mode, now_us, self._book.shares, slot, lifetime_us)
            durable, sequence = None, 0
            if judged.verdict.outcome == "allow":
                terms = policy.reservations
                ends_at_us = now_us + (lifetime_us or terms.lifetime_us) + terms.grace_us if mode == "reserve" else 0
                granted, durable = self._book.grant(event, mode, now_us, policy, judged.counters, ends_at_us)
                sequence = granted.sequence
                self._let_pass += 1
            elif failure.executed == "unknown":
                raise failure
        decision = self._decision(
            record, policy, event, mode, now_us, judged.verdict, judged.overshoot_bound, sequence, lifetime_us
        )
        return decision, durable

    def finish(
        self, token: ReservationToken, action: Action, actual: dict[str, int], failure: GateUnavailable
    ) -> tuple[Finished, Future[None]]:
        """End a reservation that Redis could not be told of. Raises `failure` for an extension, and where nothing is known
        of the customer; UnknownMeter, and AboveReserved as the plan says."""
        encoded = self._known.get(token.customer_id)
        policy = self._policies.get(decode_record(encoded).policy) if encoded is not None else None
        if action == "extend" or policy is None or self._is_forked:
            raise failure
        for meter in sorted(actual):
            if meter not in policy.meters:
                raise UnknownMeter(f"quantities.{meter}", meter)
        committed = committed_quantities(policy.reservations, token.quantities, actual)
        ended, durable = self._book.end(token, action, actual, policy)
        status: ReservationStatus = "committed" if action == "commit" else "released"
        finished = Finished(
            record_id=f"outage-{self._book.journal.name}-{ended.sequence}",
            status=status,
            reason=status,
            committed=committed,
            actual=actual,
            effective_at_us=token.effective_at_us,
            deadline_us=0,
        )
        return finished, durable

    def finished(self, token: ReservationToken, finished: Finished) -> None:
        """Redis ended a reservation; if it was given here, its share is freed."""
        if token.stream_id.startswith("0-") and finished.status != "open" and not self._is_forked:
            encoded = self._known.get(token.customer_id)
            policy = self._policies.get(decode_record(encoded).policy) if encoded is not None else None
            self._book.ended_by_redis(token, finished.committed, policy)

    def sign(self, decision: DegradedDecision) -> str | None:
        """The id of a reservation that was given here; None where the installation's key was never read."""
        if self._secret is None:
            return None
        stream_id = f"0-{decision.sequence}"
        return token_of(decision.event, stream_id, decision.effective_at_us, decision.policy).sign(self._secret)

    def wait_for_care(self, timeout_seconds: float) -> bool:
        """Let the caretaker make a whole round now: hold the slot, settle what Redis does not know. Whether it did."""
        with self._cared:
            wanted = self._rounds_begun + 1
            self._wake.set()
            return self._cared.wait_for(lambda: self._rounds_done >= wanted, timeout_seconds)

    def close(self) -> None:
        """Stop the caretaker and leave the journal to whoever comes next: what it can't settle within a second or two is
        theirs. Idempotent."""
        if self._closing_until is not None or self._is_forked:
            return
        self._closing_until = monotonic() + CARETAKER_TIMEOUT_SECONDS
        self._wake.set()
        self._caretaker.join()
        self._book.close()

    def _decision(
        self,
        known: Record,
        policy: EffectivePolicy,
        event: UsageEvent,
        mode: Mode,
        at_us: int,
        verdict: Verdict,
        bound: dict[str, int],
        sequence: int,
        lifetime_us: int = 0,
    ) -> DegradedDecision:
        allowed = verdict.outcome == "allow"
        facts = None
        if mode == "reserve" and allowed:
            deadline_us = at_us + (lifetime_us or policy.reservations.lifetime_us)
            facts = Facts("open", at_us, deadline_us, "")
        result = Result(
            verdict.outcome,
            verdict.reason,
            verdict.limit_id or "",
            verdict.override_id or "",
            known.result.state_after,
            (),
            1,
        )
        record = msgspec.structs.replace(
            known,
            engine=ENGINE_VERSION,
            kind="decision",
            now_us=at_us,
            mode=mode,
            event=event,
            result=result,
            reservation=facts,
        )
        return DegradedDecision(record, policy, at_us, verdict, bound, sequence)

    # The caretaker ---------------------------------------------------------------------------------------------------

    def _care(self) -> None:
        transport = self._connect()
        try:
            while self._closing_until is None:
                self._wake.clear()
                self._rounds_begun += 1
                wait_seconds = self._care_once(transport)
                with self._cared:
                    self._rounds_done = self._rounds_begun
                    self._cared.notify_all()
                if self._closing_until is None:
                    self._wake.wait(wait_seconds)
            self._leave(transport)
        finally:
            transport.close()

    def _care_once(self, transport: SyncTransport) -> float:
        """How long to wait until the next time."""
        try:
            self._slot = hold_slot(transport, self._book.journal.name)
            if self._secret is None:
                self._secret = transport.get(SIGNING_KEY)
            self._failures = 0
            self._settle(transport, self._book)
            self._settle_of_the_dead(transport)
        except (ScriptFailed, NotPrepared):
            self._failures = 0  # Redis answers: events are its matter again, whatever is wrong with slots or a journal
            return SETTLE_SECONDS
        except GateUnavailable:
            return PROBE_SECONDS if self.is_open else SETTLE_SECONDS
        except (SpendgateError, OSError, ValueError, msgspec.MsgspecError) as exc:
            self._complain(exc)
            return SETTLE_SECONDS
        return SETTLE_SECONDS if self._book.unsettled else RENEW_SECONDS

    def _complain(self, trouble: Exception) -> None:
        """Once for each, not each second."""
        if str(trouble) not in self._troubles:
            self._troubles.add(str(trouble))
            _log.error("a journal of outages can't be settled: %s", trouble, exc_info=trouble)

    def _goes_on(self) -> bool:
        return self._closing_until is None or monotonic() < self._closing_until

    def _settle(self, transport: SyncTransport, book: Book) -> None:
        now_us = self._slot.clock_us() if self._slot is not None else 0

        def policy_of(customer_id: str, digest: str) -> EffectivePolicy:
            found = self._policies.get(digest)
            return found or self._policies.add(digest, transport.get(policy_key(customer_id, digest)))

        for customer_id in book.settle(transport, policy_of, now_us, self._goes_on):
            self._known.pop(customer_id, None)

    def _settle_of_the_dead(self, transport: SyncTransport) -> None:
        """Journals that no living process has open, with something left to settle."""
        for path in sorted(self._folder.glob("*.journal")):
            if not self._goes_on():
                return
            try:
                journal = Journal.open_numbered(self._folder, int(path.stem)) if path.stem.isdigit() else None
            except OSError as exc:
                self._complain(exc)
                continue
            if journal is None:
                continue
            book = Book(journal)
            try:
                self._settle(transport, book)
                if book.is_whole:
                    leave_slot(transport, journal.name)
            finally:
                book.close()

    def _leave(self, transport: SyncTransport) -> None:
        with contextlib.suppress(GateUnavailable, ScriptFailed, NotPrepared):
            if not self.is_open:
                self._settle(transport, self._book)
                if self._book.is_whole:
                    leave_slot(transport, self._book.journal.name)
