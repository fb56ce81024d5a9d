"""The record: one outbox entry, and the script's answer to its caller.

It holds the *inputs* of a decision and what the script decided, nothing derived. `verdict_of` and `finish_of` decide
again with the pure functions, so the explanation, the audit and the verifier all use the definition.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import msgspec

from spendgate.decide import Mode, Outcome, Verdict
from spendgate.engines import engine_of
from spendgate.errors import AboveReserved
from spendgate.event import UsageEvent
from spendgate.held import Repaired
from spendgate.limits import Counters, counter_field, decode_counter
from spendgate.policy import EffectivePolicy
from spendgate.reservation import Facts, Finish, committed_quantities
from spendgate.state import CustomerState, Override, OverrideSet, PolicyState, Standing

Kind = Literal["decision", "finish", "standing", "denials", "repair", "restored", "snapshot"]
FinishMode = Literal["commit", "release", "expire", "extend", "settle", "correct"]


class Result(msgspec.Struct, frozen=True, array_like=True):
    """What the script decided. Empty text means none; `count` is above 1 only for coalesced denials."""

    outcome: Outcome
    reason: str
    limit_id: str
    override_id: str
    state_after: CustomerState
    crossed: tuple[tuple[str, str], ...]
    count: int


class Record(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """`kind`: `decision`; `finish` (a reservation that ended or was extended, or what
    passed in an outage and is debited now, or what was debited and is put right, by `mode`); `standing` (state or threshold
    changed without an event); `denials` (`result.count` further denials of one rule in one second); `repair` (counters
    of reservations that did not add up); `restored` (Redis had lost what it knew of the customer, and holds what the store's
    records add up to); `snapshot` (never stored).

    `repaired` is what a repair put right. `policy` is a digest; `counters` are as stored, in the order of the policy's limits; all inputs are as they were
    before the decision. `event` of a finish is the event as it was reserved."""

    engine: int
    kind: Kind
    now_us: int
    mode: Mode | FinishMode
    customer_id: str
    policy: str
    mirrored_at_us: int
    event: UsageEvent | None
    state: PolicyState | None
    counters: tuple[bytes | None, ...]
    standing_before: bytes | None
    override_set: OverrideSet | None
    result: Result
    reservation: Facts | None = None
    repaired: tuple[Repaired, ...] = ()

    @cached_property
    def standing(self) -> Standing:
        return Standing.decode(self.standing_before) if self.standing_before is not None else Standing()

    @property
    def overrides(self) -> tuple[Override, ...]:
        return self.override_set.overrides if self.override_set is not None else ()

    @property
    def debited(self) -> dict[str, int]:
        """What counts as used because of it, by meter; below 0 where a correction takes something back. A reservation uses
        nothing until it is committed."""
        if self.event is None or self.result.outcome != "allow":
            return {}
        if self.kind == "finish" and self.reservation is not None:
            return dict(self.reservation.committed)
        return self.event.quantities if self.kind == "decision" and self.mode != "reserve" else {}

    def counters_by_limit(self, policy: EffectivePolicy) -> Counters:
        """By counter field; limits never used are absent. Raises ValueError when the policy is another one."""
        pairs = zip(policy.limits, self.counters, strict=True)
        return {counter_field(limit): decode_counter(limit, raw) for limit, raw in pairs if raw is not None}


def decode_record(encoded: bytes) -> Record:
    """Raises msgspec.DecodeError or ValidationError on anything that is no record."""
    return _decoder.decode(encoded)


def verdict_of(record: Record, policy: EffectivePolicy) -> Verdict:
    """Decide the record's event again. `policy` is the one that `record.policy` names. Raises ValueError for a record
    that decides no event, and UnknownEngine."""
    if record.event is None or record.kind != "decision":
        raise ValueError(f"a record of kind {record.kind!r} can't be decided again")
    facts = record.reservation
    return engine_of(record.engine).decide(
        policy,
        record.state,
        record.counters_by_limit(policy),
        record.overrides,
        record.event,
        record.now_us,
        standing=record.standing,
        mode=record.mode,
        mirrored_at_us=record.mirrored_at_us,
        lifetime_us=0 if facts is None else facts.deadline_us - record.now_us,
    )


def finish_of(record: Record, policy: EffectivePolicy) -> Finish:
    """Finish the record's reservation again. Raises ValueError for a record that finishes none, and UnknownEngine."""
    facts = record.reservation
    if record.event is None or facts is None or record.kind != "finish":
        raise ValueError(f"a record of kind {record.kind!r} finishes no reservation")
    return engine_of(record.engine).finish(
        policy,
        record.state,
        record.counters_by_limit(policy),
        record.event,
        dict(facts.committed),
        facts.effective_at_us,
        record.now_us,
        held=facts.deadline_us != 0,
        corrects=record.mode == "correct",
    )


def decide_again(record: Record, policy: EffectivePolicy) -> dict[str, Any]:
    """What the definition says of the record, by the names of `Result`'s fields. Empty where there is nothing to
    compare: denials that were only counted, and what moves no counter."""
    if (
        record.kind in ("denials", "repair", "restored")
        or record.mode == "extend"
        or record.result.reason == "external"
    ):
        return {}
    if record.kind == "finish":
        return {"crossed": finish_of(record, policy).crossed}
    if record.kind == "standing":
        again = engine_of(record.engine).refresh
        counters = record.counters_by_limit(policy)
        standing = again(policy, record.state, counters, record.overrides, record.now_us, standing=record.standing)
        return {"state_after": standing.state}
    verdict = verdict_of(record, policy)
    return {
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "limit_id": verdict.limit_id or "",
        "override_id": verdict.override_id or "",
        "crossed": verdict.crossed,
        "state_after": verdict.standing.state,
    }


def agrees(record: Record, policy: EffectivePolicy) -> bool:
    """Whether the definition decides as the script did."""
    if record.kind == "finish" and record.mode != "extend" and not _ends_as_planned(record, policy):
        return False
    return all(getattr(record.result, name) == value for name, value in decide_again(record, policy).items())


def _ends_as_planned(record: Record, policy: EffectivePolicy) -> bool:
    """Whether what was debited for a reservation is what its plan says of how it ended."""
    facts, event = record.reservation, record.event
    if facts is None or event is None:
        return False
    actual, committed = dict(facts.actual), dict(facts.committed)
    if record.mode == "correct":
        put_right = facts.correction
        return put_right is not None and (committed, actual) == (put_right.delta, {put_right.meter: put_right.after})
    if record.mode == "commit":
        try:
            return committed == committed_quantities(policy.reservations, event.quantities, actual)
        except AboveReserved:
            return False
    if record.mode == "expire" and facts.deadline_us > record.now_us:
        return False
    if record.result.reason == "expired_committed":
        return policy.reservations.at_deadline == "commit" and committed == actual == event.quantities
    if record.mode == "settle":
        return committed == event.quantities
    return not committed and not actual


_decoder = msgspec.msgpack.Decoder(Record)
