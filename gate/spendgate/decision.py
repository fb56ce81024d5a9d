"""The answer to one event, as an application sees it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from spendgate.decide import Outcome, Verdict
from spendgate.errors import SpendgateError
from spendgate.event import UsageEvent
from spendgate.keys import decision_id_of, partition_of
from spendgate.limits.result import LimitResult
from spendgate.overshoot import allowances_of
from spendgate.policy import EffectivePolicy
from spendgate.reasons import MICRO, Case, Unblock, rfc3339, sentence_of, unblock_of
from spendgate.record import Record, decode_record, finish_of, verdict_of
from spendgate.reservation import Facts
from spendgate.snapshot import snapshot_of
from spendgate.state import CustomerState

Status = Literal["decided", "duplicate", "coalesced", "dry_run"]


class Decision:
    """`status` tells how it came about: `decided` now; `duplicate` of an event allowed before (nothing debited again);
    `coalesced` with earlier denials of the same rule in the same second, whose `decision_id` it carries; `dry_run`.

    The outcome is the script's. The record is decoded when more than the outcome is asked for: most callers go on after
    `allowed`. Explanations (`limits`, `message`, `unblock`) are derived from it by the definition, when first asked for.
    A duplicate's explanation speaks of now, its outcome and `effective_at` of then. Of a record of kind `finish`, the
    limits are as the end of the reservation left them.
    """

    def __init__(
        self,
        status: Status,
        stream_id: str,
        record: Record | bytes,
        policy: EffectivePolicy,
        at_us: int | None = None,
        *,
        event: UsageEvent | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        """`record` may be encoded still; then `event` and `outcome`, where they are known, spare decoding it. `at_us` None
        is the moment of the record."""
        self.status = status
        self.policy = policy
        self.stream_id = stream_id
        self.reservation_id: str | None = None
        """Names the reservation for `commit`, `release` and `extend`; None where nothing was reserved."""
        if isinstance(record, Record):
            self.record = record
        else:
            self._encoded = record
        if at_us is not None:
            self.effective_at_us = at_us
        self.event = event if event is not None else _event_of(self.record)
        self.outcome: Outcome = outcome if outcome is not None else self.record.result.outcome

    @cached_property
    def record(self) -> Record:
        """What the decision was made from, as the script keeps it."""
        return decode_record(self._encoded)

    @cached_property
    def effective_at_us(self) -> int:
        """When it was decided, in Unix microseconds: what its windows were selected by."""
        return self.record.now_us

    @property
    def allowed(self) -> bool:
        return self.outcome == "allow"

    @property
    def decision_id(self) -> str | None:
        """None for a dry run, which is not kept."""
        if not self.stream_id:
            return None
        return decision_id_of(partition_of(self.event.customer_id), self.stream_id)

    @property
    def event_id(self) -> str:
        return self.event.event_id

    @property
    def reason(self) -> str:
        """Code, as in `reasons.REASONS`."""
        return self.record.result.reason

    @property
    def limit_id(self) -> str | None:
        """The limit that decided a denial."""
        return self.record.result.limit_id or None

    @property
    def override_id(self) -> str | None:
        return self.record.result.override_id or None

    @property
    def customer_state(self) -> CustomerState:
        """After this decision."""
        return self.record.result.state_after

    @property
    def duplicate(self) -> bool:
        return self.status == "duplicate"

    @property
    def dry_run(self) -> bool:
        return self.status == "dry_run"

    @property
    def degraded(self) -> bool:
        """Given without Redis; see `DegradedDecision`."""
        return False

    @property
    def overshoot_bound(self) -> Mapping[str, int]:
        """Per limit of the event, the most units that can pass beyond it until the billing data is fresh again, by all
        processes. Empty where it is fresh."""
        if not self.policy.finds_too_old(self.record.mirrored_at_us, self.record.now_us):
            return {}
        return allowances_of(self.policy, self.event)

    @cached_property
    def verdict(self) -> Verdict:
        if not self.duplicate and self.record.kind == "decision":
            return verdict_of(self.record, self.policy)
        if not self.duplicate and self.record.mode != "extend":
            limits = finish_of(self.record, self.policy).limits
        else:
            limits = tuple(snapshot_of(self.record, self.policy).limits())
        return Verdict(
            outcome=self.outcome,
            reason=self.reason,
            limit_id=None,
            override_id=None,
            retry_after_us=0,
            limits=limits,
            counters={},
            crossed=(),
            state_before=self.record.standing.state,
            standing=self.record.standing,
        )

    @property
    def _case(self) -> Case:
        return Case(self.verdict, self.policy, self.event, self.record.overrides, self.record.now_us)

    @property
    def limits(self) -> tuple[LimitResult, ...]:
        """Every limit of the policy, with its numbers."""
        return self.verdict.limits

    @property
    def message(self) -> str:
        """Why, in one sentence. Times are in the customer's zone; `answer` has them in UTC beside it."""
        return sentence_of(self._case)

    @property
    def unblock(self) -> Unblock | None:
        """The smallest thing that would let a denied event pass; None when it was allowed."""
        return unblock_of(self._case)

    @property
    def retry_after_seconds(self) -> int | None:
        """Whole seconds, rounded up, after which a throttled event may fit; None when it was not throttled."""
        return -(-self.verdict.retry_after_us // MICRO) if self.outcome == "throttle" else None

    def answer(self) -> dict[str, Any]:
        """The HTTP answer: plain values, ready for JSON."""
        unblock = self.unblock
        return {
            "decision": self.outcome,
            "decision_id": self.decision_id,
            "event_id": self.event_id,
            "retry_safe": self.event.retry_safe,
            "duplicate": self.duplicate,
            "dry_run": self.dry_run,
            "degraded": self.degraded,
            "overshoot_bound": dict(self.overshoot_bound),
            "customer_id": self.record.customer_id,
            "customer_state": self.customer_state,
            "reason": {"code": self.reason, "message": self.message},
            "effective_at": rfc3339(self.effective_at_us),
            "retry_after_seconds": self.retry_after_seconds,
            "unblock": _unblock_answer(unblock),
            "policy": _policy_answer(self.record, self.limits),
            "reservation": self._reservation_answer(),
            "decision_trace": self.trace(),
        }

    def _reservation_answer(self) -> dict[str, Any] | None:
        facts = self.record.reservation
        return reservation_answer(facts, self.record.customer_id) if facts is not None and not self.dry_run else None

    def trace(self) -> dict[str, Any]:
        """Everything the decision was made from, each limit with its numbers."""
        record, verdict = self.record, self.verdict
        return {
            "engine": record.engine,
            "policy_digest": record.policy,
            "clock": rfc3339(record.now_us),
            "mode": record.mode,
            "event": _event_answer(self.event),
            "previous_state": record.standing.state,
            "customer_state": self.customer_state,
            "deciding_limit": self.limit_id,
            "override_id": self.override_id,
            "traceparent": self.event.traceparent,
            "limits": [limit_answer(line) for line in verdict.limits],
        }


class DegradedDecision(Decision):
    """An answer that this process gave by itself, because Redis did not. It is in the journal, not in the outbox, so it has
    no `decision_id` yet: the event is found by its `event_id` once it was settled. `overshoot_bound` is, per limit of the
    event, the most units that all processes together can let pass beyond it.
    """

    def __init__(
        self,
        record: Record,
        policy: EffectivePolicy,
        at_us: int,
        verdict: Verdict,
        overshoot_bound: dict[str, int],
        sequence: int,
    ) -> None:
        super().__init__("decided", "", record, policy, at_us)
        self._verdict = verdict
        self._overshoot_bound = overshoot_bound
        self.sequence = sequence
        """Where in its journal; 0: nothing was let pass."""

    @property
    def degraded(self) -> bool:
        return True

    @property
    def overshoot_bound(self) -> Mapping[str, int]:
        return self._overshoot_bound

    @property
    def verdict(self) -> Verdict:
        return self._verdict


class Denied(SpendgateError):
    """A run that was asked for by `reserve`, or by a decorator, and may not happen; `decision` says why."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.message)
        self.decision = decision


def _event_of(record: Record) -> UsageEvent:
    if record.event is None:
        raise ValueError(f"a record of kind {record.kind!r} answers no event")
    return record.event


def reservation_answer(facts: Facts, customer_id: str) -> dict[str, Any]:
    """What a record says of its reservation; `decision_id` names the decision that reserved, None in itself."""
    stream_id = facts.stream_id
    return {
        "status": facts.status,
        "decision_id": decision_id_of(partition_of(customer_id), stream_id) if stream_id else None,
        "effective_at": rfc3339(facts.effective_at_us),
        "deadline": rfc3339(facts.deadline_us) if facts.deadline_us else None,
        "actual": dict(facts.actual),
        "committed": dict(facts.committed),
    }


def limit_answer(line: LimitResult) -> dict[str, Any]:
    """One limit as JSON tells it: instants as RFC 3339, `retry_after_seconds` rounded up."""
    start, end = line.period_start_seconds, line.period_end_seconds
    return {
        "id": line.id,
        "kind": line.kind,
        "result": line.result,
        "mode": line.mode,
        "when_exceeded": line.when_exceeded,
        "meters": list(line.meters),
        "unit": line.unit,
        "period": line.period,
        "period_start": rfc3339(start * MICRO) if start is not None else None,
        "period_end": rfc3339(end * MICRO) if end is not None else None,
        "amount": line.amount,
        "used": line.used,
        "reserved": line.reserved,
        "external": line.external,
        "limit": line.limit,
        "cap": line.cap,
        "floor": line.floor,
        "remaining": line.remaining,
        "overage": line.overage,
        "retry_after_seconds": -(-line.retry_after_us // MICRO) if line.retry_after_us else None,
        "field": line.field,
        "bypassed": line.bypassed,
        "match": line.match,
        "per": line.per,
        "per_value": line.per_value,
    }


def _unblock_answer(unblock: Unblock | None) -> dict[str, Any] | None:
    if unblock is None:
        return None
    return {
        "message": unblock.message,
        "limit_id": unblock.limit_id,
        "short": unblock.short,
        "unit": unblock.unit,
        "resets_at": rfc3339(unblock.resets_at_us) if unblock.resets_at_us is not None else None,
    }


def _policy_answer(record: Record, limits: tuple[LimitResult, ...]) -> dict[str, Any]:
    state = record.state
    age_us = record.now_us - record.mirrored_at_us if record.mirrored_at_us else None
    balance = next((line.remaining for line in limits if line.kind == "credits"), None)
    return {
        "plan": state.plan if state is not None else None,
        "status": state.status if state is not None else "unknown",
        "digest": record.policy,
        "version": state.version if state is not None else None,
        "source": state.source if state is not None else None,
        "as_of": rfc3339(record.mirrored_at_us) if record.mirrored_at_us else None,
        "mirror_age_seconds": round(max(0, age_us) / MICRO, 3) if age_us is not None else None,
        "credit_balance_micro": balance,
        "contractual_caps": dict(state.caps) if state is not None else {},
    }


def _event_answer(event: Any) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "customer_id": event.customer_id,
        "quantities": event.quantities,
        "metadata": event.metadata,
        "occurred_at": rfc3339(event.occurred_at_us) if event.occurred_at_us is not None else None,
    }
