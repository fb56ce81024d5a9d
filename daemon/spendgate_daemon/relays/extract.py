"""One record → the rows that follow from it. Pure: the same record gives the same rows, whoever stores it."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from spendgate.policy import EffectivePolicy
from spendgate.reasons import quantity_text
from spendgate.record import Record, verdict_of
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.store.usage import HOUR_SECONDS, MINUTE_SECONDS

STATE_KINDS: Final = {"ok": "resumed", "throttled": "throttled", "stopped": "stopped", "suspended": "suspended"}


class Extract(msgspec.Struct, frozen=True):
    """Rows for the tables of the same names."""

    decision: dict[str, Any]
    usage: list[dict[str, Any]]
    events: list[GuardrailEvent]
    rollups: list[dict[str, Any]]


def extract(decision_id: str, record: Record, policy: EffectivePolicy, encoded: bytes) -> Extract:
    """`encoded` is the record as it was in the outbox; it is stored as it is."""
    event, result = record.event, record.result
    quantities = event.quantities if event is not None else {}
    decision = {
        "decision_id": decision_id,
        "kind": record.kind,
        "customer_id": record.customer_id,
        "event_id": event.event_id if event is not None else "",
        "at_us": record.now_us,
        "mode": record.mode,
        "outcome": result.outcome,
        "reason": result.reason,
        "limit_id": result.limit_id,
        "quantities": json.dumps(quantities, sort_keys=True),
        "count": result.count,
        "policy_digest": record.policy,
        "verified": None,
        "record": encoded,
    }
    allowed = record.kind == "decision" and result.outcome == "allow"
    return Extract(
        decision=decision,
        usage=_usage(decision_id, record, policy) if allowed else [],
        events=_events(decision_id, record, policy),
        rollups=_rollups(record, quantities),
    )


def _usage(decision_id: str, record: Record, policy: EffectivePolicy) -> list[dict[str, Any]]:
    event = record.event
    if event is None:
        return []
    several = len(event.quantities) > 1
    return [
        {
            "event_id": f"{decision_id}:{meter}" if several else decision_id,
            "decision_id": decision_id,
            "customer_id": record.customer_id,
            "meter": meter,
            "quantity": quantity,
            "unit": policy.meters[meter],
            "model": event.model,
            "at_us": record.now_us,
        }
        for meter, quantity in sorted(event.quantities.items())
    ]


def _events(decision_id: str, record: Record, policy: EffectivePolicy) -> list[GuardrailEvent]:
    result, before = record.result, record.standing.state
    events: list[tuple[str, str | None, str | None, str | None, str]] = []
    for limit_id, name in result.crossed:
        kind = "overage_started" if name == "overage" else "threshold_crossed"
        message = (
            f"{limit_id}: use went beyond the included amount; it is billed from here on"
            if name == "overage"
            else f"{limit_id}: {name} of the cap is used"
        )
        events.append((kind, limit_id, None, None, message))
    if result.state_after != before:
        kind = STATE_KINDS[result.state_after]
        reason_limit_id, message = _why(record, policy)
        events.append((kind, reason_limit_id, before, result.state_after, message))
    return [
        GuardrailEvent(
            id=f"{decision_id}.{number}",
            customer_id=record.customer_id,
            kind=kind,
            at_us=record.now_us,
            limit_id=cited_limit_id,
            from_state=from_state,
            to_state=to_state,
            decision_id=decision_id,
            override_id=result.override_id or None,
            message=message,
        )
        for number, (kind, cited_limit_id, from_state, to_state, message) in enumerate(events, start=1)
    ]


def _why(record: Record, policy: EffectivePolicy) -> tuple[str | None, str]:
    """The limit behind a change of state, and a sentence about it."""
    state = record.result.state_after
    if state == "suspended":
        return None, "Suspended: the billing system says so"
    if state == "ok":
        return None, f"Resumed: no longer {record.standing.state}"
    if record.event is not None and record.kind == "decision":
        for line in verdict_of(record, policy).limits:
            exhausted = line.remaining is not None and line.remaining <= line.floor
            if line.kind in ("quota", "credits") and exhausted and line.mode == "enforce":
                left = quantity_text(max(0, line.remaining or 0), line.unit)
                return line.id, f"{state.capitalize()}: {line.id} has {left} left"
        if record.result.limit_id:
            return record.result.limit_id, f"{state.capitalize()}: {record.result.limit_id} denied an event"
    return None, f"{state.capitalize()}: was {record.standing.state} until now"


def _rollups(record: Record, quantities: dict[str, int]) -> list[dict[str, Any]]:
    if record.kind != "decision":
        return []
    outcome = record.result.outcome
    seconds = record.now_us // 1_000_000
    return [
        {
            "customer_id": record.customer_id,
            "meter": meter,
            "width_seconds": width,
            "start_seconds": seconds - seconds % width,
            "units": quantity if outcome == "allow" else 0,
            "allowed": int(outcome == "allow"),
            "throttled": int(outcome == "throttle"),
            "stopped": int(outcome == "stop"),
        }
        for meter, quantity in quantities.items()
        for width in (MINUTE_SECONDS, HOUR_SECONDS)
    ]
