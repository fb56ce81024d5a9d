"""The record: one outbox entry, and the script's answer to its caller.

It holds the *inputs* of a decision and what the script decided, nothing derived. `verdict_of` and `finish_of` decide
again with the pure functions, so the explanation, the audit and the verifier all use the definition.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

from spendgate.decide import Mode, Outcome, Verdict, decide, refresh
from spendgate.errors import AboveReserved
from spendgate.event import UsageEvent
from spendgate.held import Repaired
from spendgate.limits import Counters, counter_field, decode_counter
from spendgate.policy import ENGINE_VERSION, EffectivePolicy
from spendgate.reservation import Facts, Finish, committed_quantities, finish
from spendgate.state import CustomerState, Override, OverrideSet, PolicyState, Standing

Kind = Literal["decision", "finish", "standing", "denials", "repair", "snapshot"]
FinishMode = Literal["commit", "release", "expire", "extend", "settle"]


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
    passed in an outage and is debited now, by `mode`); `standing` (state or threshold
    changed without an event); `denials` (`result.count` further denials of one rule in one second); `repair` (counters
    of reservations that did not add up); `snapshot` (never stored).

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

    def counters_by_limit(self, policy: EffectivePolicy) -> Counters:
        """By counter field; limits never used are absent. Raises ValueError when the policy is another one."""
        pairs = zip(policy.limits, self.counters, strict=True)
        return {counter_field(limit): decode_counter(limit, raw) for limit, raw in pairs if raw is not None}


def decode_record(encoded: bytes) -> Record:
    """Raises msgspec.DecodeError or ValidationError on anything that is no record."""
    return _decoder.decode(encoded)


def verdict_of(record: Record, policy: EffectivePolicy) -> Verdict:
    """Decide the record's event again. `policy` is the one that `record.policy` names. Raises ValueError for a record
    that decides no event, or of another engine."""
    if record.engine != ENGINE_VERSION or record.event is None or record.kind != "decision":
        raise ValueError(f"engine {record.engine} or kind {record.kind!r} can't be decided again")
    facts = record.reservation
    return decide(
        policy,
        record.state,
        record.counters_by_limit(policy),
        record.overrides,
        record.event,
        record.now_us,
        standing=record.standing,
        mode=record.mode,  # type: ignore[arg-type]  # a decision has a decision's mode
        mirrored_at_us=record.mirrored_at_us,
        lifetime_us=0 if facts is None else facts.deadline_us - record.now_us,
    )


def finish_of(record: Record, policy: EffectivePolicy) -> Finish:
    """Finish the record's reservation again. Raises ValueError for a record that finishes none, or of another
    engine."""
    facts = record.reservation
    if record.engine != ENGINE_VERSION or record.event is None or facts is None or record.kind != "finish":
        raise ValueError(f"engine {record.engine} or kind {record.kind!r} finishes no reservation")
    return finish(
        policy,
        record.state,
        record.counters_by_limit(policy),
        record.event,
        dict(facts.committed),
        facts.effective_at_us,
        record.now_us,
        held=facts.deadline_us != 0,
    )


def agrees(record: Record, policy: EffectivePolicy) -> bool:
    """Whether the definition decides as the script did; denials that were only counted have nothing to compare."""
    result = record.result
    if record.kind in ("denials", "repair") or record.mode == "extend" or result.reason == "external":
        return True
    if record.kind == "finish":
        return _ends_as_planned(record, policy) and finish_of(record, policy).crossed == result.crossed
    if record.kind == "standing":
        counters = record.counters_by_limit(policy)
        standing = refresh(policy, record.state, counters, record.overrides, record.now_us, standing=record.standing)
        return standing.state == result.state_after
    verdict = verdict_of(record, policy)
    return (
        verdict.outcome == result.outcome
        and verdict.reason == result.reason
        and (verdict.limit_id or "") == result.limit_id
        and (verdict.override_id or "") == result.override_id
        and verdict.crossed == result.crossed
        and verdict.standing.state == result.state_after
    )


def _ends_as_planned(record: Record, policy: EffectivePolicy) -> bool:
    """Whether what was debited for a reservation is what its plan says of how it ended."""
    facts, event = record.reservation, record.event
    if facts is None or event is None:
        return False
    actual, committed = dict(facts.actual), dict(facts.committed)
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
