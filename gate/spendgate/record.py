"""The record: one outbox entry, and the script's answer to its caller.

It holds the *inputs* of a decision and what the script decided, nothing derived. `verdict_of` decides again with the
pure function, so the explanation, the audit and the verifier all use the definition.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from spendgate.decide import Mode, Outcome, Verdict, decide, refresh
from spendgate.event import UsageEvent
from spendgate.limits import counter_field
from spendgate.policy import ENGINE_VERSION, EffectivePolicy
from spendgate.state import CustomerState, Override, OverrideSet, PolicyState, Standing


class Result(msgspec.Struct, frozen=True, array_like=True):
    """What the script decided. Empty text means none; `count` is above 1 only for coalesced denials."""

    outcome: Outcome
    reason: str
    limit_id: str
    override_id: str
    state_after: CustomerState
    crossed: tuple[tuple[str, str], ...]
    count: int


class Record(msgspec.Struct, frozen=True, array_like=True):
    """`kind`: `decision`; `standing` (state or threshold changed without an event); `denials` (`result.count` further
    denials of one rule in one second); `snapshot` (never stored). `policy` is a digest; `counters` stand in the
    order of the policy's limits; all inputs are as they were before the decision."""

    engine: int
    kind: Literal["decision", "standing", "denials", "snapshot"]
    now_us: int
    mode: Mode
    customer_id: str
    policy: str
    mirrored_at_us: int
    event: UsageEvent | None
    state: PolicyState | None
    counters: tuple[Any, ...]
    standing_before: Standing | None
    override_set: OverrideSet | None
    result: Result

    @property
    def standing(self) -> Standing:
        return self.standing_before or Standing()

    @property
    def overrides(self) -> tuple[Override, ...]:
        return self.override_set.overrides if self.override_set is not None else ()

    def counters_by_limit(self, policy: EffectivePolicy) -> dict[str, Any]:
        """Counter field to stored counter; limits never used are absent."""
        pairs = zip(policy.limits, self.counters, strict=True)
        return {counter_field(limit): counter for limit, counter in pairs if counter is not None}


def decode_record(encoded: bytes) -> Record:
    """Raises msgspec.DecodeError or ValidationError on anything that is no record."""
    return _decoder.decode(encoded)


def verdict_of(record: Record, policy: EffectivePolicy) -> Verdict:
    """Decide the record's event again. `policy` is the one that `record.policy` names; the record has an event."""
    if record.engine != ENGINE_VERSION or record.event is None:
        raise ValueError(f"engine {record.engine} or kind {record.kind!r} can't be decided again")
    return decide(
        policy,
        record.state,
        record.counters_by_limit(policy),
        record.overrides,
        record.event,
        record.now_us,
        standing=record.standing,
        mode=record.mode,
    )


def agrees(record: Record, policy: EffectivePolicy) -> bool:
    """Whether the definition decides as the script did; denials that were only counted have nothing to compare."""
    result = record.result
    if record.kind == "denials" or result.reason == "external":
        return True
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


_decoder = msgspec.msgpack.Decoder(Record)
