"""Replay: a stored decision is made again from its inputs, by the definition of the engine that made it.

It reads the store and nothing else, so it works years later and without Redis.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spendgate.decision import Decision, limit_answer
from spendgate.errors import SpendgateError
from spendgate.keys import stream_id_of
from spendgate.limits.result import LimitResult
from spendgate.policy import EffectivePolicy
from spendgate.reasons import REASONS, rfc3339
from spendgate.record import Record, decide_again, decode_record, finish_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.decisions import StoredDecision


class NoReplay(Exception):
    """The decision can't be made again; the message says why."""


class Difference(msgspec.Struct, frozen=True):
    """What the script decided and was stored, and what the definition says."""

    field: str
    stored: Any
    computed: Any


class Replay(msgspec.Struct, frozen=True):
    """`decision` is None for the end of a reservation, which answers no event. `lines` are the limits as the definition
    found them."""

    decision_id: str
    record: Record
    policy: EffectivePolicy
    differences: tuple[Difference, ...]
    decision: Decision | None
    lines: tuple[LimitResult, ...]

    @property
    def agrees(self) -> bool:
        return not self.differences

    @property
    def sentence(self) -> str:
        """Why, by the definition."""
        return self.decision.message if self.decision is not None else REASONS[self.record.result.reason].sentence

    def as_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON. `answer` is what the HTTP API answers for a decision."""
        record = self.record
        return {
            "decision_id": self.decision_id,
            "kind": record.kind,
            "mode": record.mode,
            "at": rfc3339(record.now_us),
            "engine": record.engine,
            "policy_digest": record.policy,
            "agrees": self.agrees,
            "differences": [msgspec.structs.asdict(each) for each in self.differences],
            "answer": self.decision.answer() if self.decision is not None else None,
            "reservation": _reservation(record),
            "limits": [limit_answer(line) for line in self.lines],
        }


def replay(store: Store, decision_id: str) -> Replay:
    """Make a stored decision, or the end of a reservation, again. Raises NoReplay."""
    stream_id = stream_id_of(decision_id)
    if stream_id is None:
        raise NoReplay(f"{decision_id!r} is no decision id; one looks like d017-1795000000000-42")
    stored = store.decisions.get(decision_id)
    if stored is None:
        raise NoReplay(f"the store has no decision {decision_id}; one is stored within a second of its answer")
    record = _record_of(stored)
    policy = store.policies.effective(record.policy)
    if policy is None:
        raise NoReplay(f"the store has no policy {record.policy}, under which {decision_id} was decided")
    try:
        computed = decide_again(record, policy)
        decision = Decision("decided", stream_id, record, policy, record.now_us) if record.kind == "decision" else None
        lines = decision.limits if decision is not None else finish_of(record, policy).limits
    except (SpendgateError, ValueError, LookupError, ArithmeticError, TypeError) as exc:
        raise NoReplay(f"{decision_id} can't be decided again: {exc}") from exc
    differences = [
        Difference(field, getattr(record.result, field), value)
        for field, value in computed.items()
        if getattr(record.result, field) != value
    ]
    return Replay(decision_id, record, policy, tuple(differences), decision, lines)


def _record_of(stored: StoredDecision) -> Record:
    try:
        record = decode_record(stored.record)
    except msgspec.MsgspecError as exc:
        raise NoReplay(f"the record of {stored.decision_id} can't be read: {exc}") from exc
    if record.kind not in ("decision", "finish"):
        what = f"stands for {record.result.count:,} further denials" if record.kind == "denials" else "decides no event"
        raise NoReplay(f"{stored.decision_id} is of kind {record.kind!r} and {what}: there is nothing to decide again")
    return record


def _reservation(record: Record) -> dict[str, Any] | None:
    facts = record.reservation
    if facts is None:
        return None
    return {
        "status": facts.status,
        "effective_at": rfc3339(facts.effective_at_us),
        "reserved": dict(record.event.quantities) if record.event is not None else {},
        "actual": dict(facts.actual),
        "committed": dict(facts.committed),
    }
