"""One journal and what follows from it: the shares that are used, what Redis does not know yet, and how it is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from spendgate.calls import finish_arguments, settle_arguments
from spendgate.decide import Mode
from spendgate.errors import BacklogFull, Conflict, NotPrepared
from spendgate.event import UsageEvent
from spendgate.keys import counters_key
from spendgate.late import late_use
from spendgate.limits import Counters
from spendgate.outage.entries import Ended, Entry, Granted, KeptCounter, Opened, Settled
from spendgate.outage.journal import COMPACTED_ABOVE_BYTES, Journal
from spendgate.outage.share import Shares, taken_back
from spendgate.policy import EffectivePolicy
from spendgate.reservation import Action
from spendgate.script import FINISH_RESERVATION, SETTLE
from spendgate.token import ReservationToken
from spendgate.transports import SyncTransport

_log: Final = logging.getLogger("spendgate.outage")

PolicyOf = Callable[[str, str], EffectivePolicy]
"""The policy that a customer had, by digest. Raises GateUnavailable and NotPrepared."""


class Book:
    """Thread-safe. `shares` are this process' own counters; `unsettled` counts what Redis does not know yet, `refused` what
    it could not debit and a person has to look at."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.shares = Shares()
        self.refused = 0
        self._lock = threading.RLock()
        self._sequence = 0
        self._grants: dict[int, Granted] = {}
        self._runs: dict[bytes, Granted] = {}
        self._ends: dict[int, Ended] = {}
        self._given: dict[bytes, Granted] = {}
        self._written: dict[int, Future[None]] = {}
        for entry in journal.entries:
            self._read(entry)
        journal.entries = ()

    @classmethod
    def open_free(cls, folder: Path) -> Book:
        """Raises OSError."""
        return cls(Journal.open_free(folder))

    @property
    def lock(self) -> threading.RLock:
        """Held from looking at the shares until what was let pass is noted."""
        return self._lock

    @property
    def unsettled(self) -> int:
        return len(self._grants) + len(self._runs) + len(self._ends)

    @property
    def is_whole(self) -> bool:
        """Nothing of the share is used and nothing is left to settle."""
        with self._lock:
            return not self.unsettled and not self.shares.kept()

    def given_before(self, event: UsageEvent, mode: Mode) -> Granted | None:
        """What the same event was let pass with, if Redis does not know that yet. Raises Conflict for other content."""
        granted = self._given.get(event.identity())
        if granted is None:
            return None
        reserved = mode == "reserve"
        if granted.event.fingerprint(reserved=granted.mode == "reserve") != event.fingerprint(reserved=reserved):
            raise Conflict(event.customer_id, event.event_id)
        return granted

    def grant(
        self,
        event: UsageEvent,
        mode: Mode,
        effective_at_us: int,
        policy: EffectivePolicy,
        counters: Counters,
        ends_at_us: int = 0,
    ) -> tuple[Granted, Future[None]]:
        """Note what is let pass; done when it is on disk."""
        with self._lock:
            self._sequence += 1
            kept = self.shares.keep(policy, event, counters)
            granted = Granted(self._sequence, event, mode, effective_at_us, policy.digest, kept, ends_at_us)
            self._add(granted)
            return granted, self._write(granted)

    def written(self, granted: Granted) -> Future[None] | None:
        """When what was let pass before is on disk: None is already. Where that failed, it is tried again."""
        with self._lock:
            written = self._written.get(granted.sequence)
            if written is not None and written.done():
                return self._write(granted) if written.exception() is not None else None
            return written

    def _write(self, granted: Granted) -> Future[None]:
        written = self._written[granted.sequence] = self.journal.append(granted)
        return written

    def end(
        self, token: ReservationToken, action: Action, actual: dict[str, int], policy: EffectivePolicy
    ) -> tuple[Ended, Future[None]]:
        """Note how a reservation ended; Redis is told later."""
        with self._lock:
            self._sequence += 1
            kept = self._freed(token.event, actual, policy)
            at_us, digest = token.effective_at_us, policy.digest
            ended = Ended(self._sequence, token.event, token.stream_id, at_us, action, actual, kept, digest)
            self._ends[ended.sequence] = ended
            return ended, self.journal.append(ended)

    def ended_by_redis(
        self, token: ReservationToken, committed: dict[str, int], policy: EffectivePolicy | None
    ) -> None:
        """A reservation that was given here was ended where it belongs: Redis knows it now."""
        with self._lock:
            run = self._runs.get(token.event.identity())
            if run is not None:
                self._settled(run, self._freed(token.event, committed, policy))

    def settle(
        self, transport: SyncTransport, policy_of: PolicyOf, now_us: int, goes_on: Callable[[], bool] = lambda: True
    ) -> set[str]:
        """Tell Redis what it does not know, in the journal's order and while it `goes_on`; customers that are stopped by it.

        Raises GateUnavailable, ScriptFailed or NotPrepared where it has to be tried again."""
        stopped: set[str] = set()
        waiting: list[Granted | Ended] = [*self._ends.values(), *self._grants.values()]
        for entry in sorted(waiting, key=lambda each: each.sequence):
            if not goes_on():
                return stopped
            if isinstance(entry, Ended):
                stops = self._settle_end(transport, entry, policy_of)
            else:
                stops = self._settle_grant(transport, entry, policy_of)
            if stops:
                stopped.add(entry.event.customer_id)
        for run in list(self._runs.values()):
            if run.ends_at_us <= now_us and goes_on():
                self._end_overdue(transport, run, policy_of)
        if self.journal.size > COMPACTED_ABOVE_BYTES:
            self._compact()
        return stopped

    def close(self) -> None:
        self.journal.close()

    def _read(self, entry: Entry) -> None:
        if isinstance(entry, Opened):
            self._sequence = entry.sequence
            self.shares.restore(entry.counters)
            return
        self._sequence = max(self._sequence, entry.sequence)
        self.shares.restore(entry.counters)
        if isinstance(entry, Granted):
            self._add(entry)
        elif isinstance(entry, Ended):
            self._runs.pop(entry.event.identity(), None)
            self._ends[entry.sequence] = entry
        else:
            self._drop(entry.sequence)
            self.refused += bool(entry.problem)

    def _add(self, granted: Granted) -> None:
        identity = granted.event.identity()
        self._given[identity] = granted
        if granted.mode == "reserve":
            self._runs[identity] = granted
        else:
            self._grants[granted.sequence] = granted

    def _drop(self, sequence: int) -> None:
        self._ends.pop(sequence, None)
        self._written.pop(sequence, None)
        granted = self._grants.pop(sequence, None)
        runs = [run for run in self._runs.values() if run.sequence == sequence]
        for each in ([granted] if granted is not None else []) + runs:
            identity = each.event.identity()
            self._runs.pop(identity, None)
            self._given.pop(identity, None)

    def _settled(self, entry: Granted | Ended, kept: tuple[KeptCounter, ...] = (), problem: str = "") -> None:
        """With a `problem` nobody but a person can say what is to become of it: it is told in full."""
        with self._lock:
            self._drop(entry.sequence)
            self.journal.append(Settled(entry.sequence, kept, problem))
        if problem:
            self.refused += 1
            _log.error(
                "what passed in an outage can't be debited (%s): customer %s, event %s, %s; entry %d of journal %s",
                problem,
                entry.event.customer_id,
                entry.event.event_id,
                entry.actual if isinstance(entry, Ended) else entry.event.quantities,
                entry.sequence,
                self.journal.name,
            )

    def _freed(
        self, event: UsageEvent, used: dict[str, int], policy: EffectivePolicy | None
    ) -> tuple[KeptCounter, ...]:
        run = self._runs.pop(event.identity(), None)
        if run is None or policy is None:
            return ()
        counters = self.shares.find(policy, event)
        after = taken_back(policy, event, counters, run.effective_at_us, used=used)
        return self.shares.keep(policy, event, after)

    def _settle_grant(self, transport: SyncTransport, granted: Granted, policy_of: PolicyOf) -> bool:
        """Whether its customer is stopped now."""
        event = granted.event
        policy = policy_of(event.customer_id, granted.digest)
        arguments = settle_arguments(
            event, granted.effective_at_us, granted.digest, self.journal.name, granted.sequence
        )
        reply = transport.run(SETTLE, counters_key(event.customer_id), arguments)
        status, problem = reply[0].decode(), _problem_of(reply)
        if problem:
            self._settled(granted, problem=problem)
            return False
        # The share comes back where Redis counts the event within the limits, so that all shares together never let
        # more pass beyond a limit than the allowance.
        within = status in ("known", "conflict") or (status == "debited" and reply[3] == 1)
        with self._lock:
            kept: tuple[KeptCounter, ...] = ()
            if within and granted.mode != "record":
                counters = self.shares.find(policy, event)
                after = taken_back(policy, event, counters, granted.effective_at_us, used=None)
                kept = self.shares.keep(policy, event, after)
            self._settled(granted, kept, "conflict" if status == "conflict" else "")
        return bool(reply[2] != b"ok")

    def _settle_end(self, transport: SyncTransport, ended: Ended, policy_of: PolicyOf) -> bool:
        """Whether its customer is stopped now, as far as that is told."""
        token = ReservationToken(
            ended.event.customer_id,
            ended.event.event_id,
            ended.stream_id,
            ended.effective_at_us,
            ended.event.quantities,
            ended.event.metadata,
        )
        arguments = finish_arguments(token, ended.action, ended.actual)
        reply = transport.run(FINISH_RESERVATION, counters_key(token.customer_id), arguments)
        problem = _problem_of(reply)
        if problem != "reservation_finished" or not ended.digest:  # an entry of an earlier version has none
            self._settled(ended, problem=problem)
            return False
        # Its deadline was sooner than Redis was back. It was committed in time, so what was used of it counts.
        terms = policy_of(token.customer_id, ended.digest).reservations
        how = reply[2].decode()
        late = late_use(ended.event, ended.stream_id, ended.effective_at_us, terms, ended.actual, how)
        if late is None or late.event is None:
            self._settled(ended, problem=problem if late is None else "")
            return False
        arguments = settle_arguments(late.event, ended.effective_at_us, ended.digest, self.journal.name, ended.sequence)
        reply = transport.run(SETTLE, counters_key(token.customer_id), arguments)
        problem = _problem_of(reply) or ("conflict" if reply[0] == b"conflict" else "")
        self._settled(ended, problem=problem)
        return not problem and bool(reply[2] != b"ok")

    def _end_overdue(self, transport: SyncTransport, run: Granted, policy_of: PolicyOf) -> None:
        """Nobody has ended it: its plan says how. Somebody else may have, through Redis; then that counts."""
        policy = policy_of(run.event.customer_id, run.digest)
        commits = policy.reservations.at_deadline == "commit"
        actual = dict(run.event.quantities) if commits else {}
        event = run.event
        token = ReservationToken(
            event.customer_id,
            event.event_id,
            f"0-{run.sequence}",
            run.effective_at_us,
            event.quantities,
            event.metadata,
        )
        arguments = finish_arguments(token, "commit" if commits else "release", actual)
        reply = transport.run(FINISH_RESERVATION, counters_key(token.customer_id), arguments)
        problem = _problem_of(reply)
        with self._lock:
            if problem == "reservation_finished":
                self._settled(run)  # what was used of it stays in the share, for it is not known here
            else:
                self._settled(run, self._freed(event, actual, policy), problem)

    def _compact(self) -> None:
        with self._lock:
            if not self.unsettled and not self.refused:
                self.journal.compact(self._sequence, self.shares.kept())


def _problem_of(reply: list[Any]) -> str:
    """The script's word where it refused for good, "" otherwise. Raises NotPrepared where it may be asked again."""
    if reply[0] != b"error":
        return ""
    code = reply[1].decode()
    if code == "backlog_full":
        raise BacklogFull
    if code in ("not_prepared", "no_policy"):
        raise NotPrepared(f"Redis can't settle yet: {code}")
    return str(code)
