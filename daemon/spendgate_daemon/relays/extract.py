"""One record → the rows that follow from it. Pure: the same record gives the same rows, whoever stores it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from spendgate.limits.result import LimitResult
from spendgate.policy import EffectivePolicy
from spendgate.reasons import quantity_text
from spendgate.record import Record, verdict_of
from spendgate.snapshot import snapshot_of
from spendgate_daemon.relays.corrected import correction_of, told
from spendgate_daemon.store.corrections import StoredCorrection
from spendgate_daemon.store.database import without_nul
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.store.usage import HOUR_SECONDS, MINUTE_SECONDS

STATE_KINDS: Final = {"ok": "resumed", "throttled": "throttled", "stopped": "stopped", "suspended": "suspended"}


class Extract(msgspec.Struct, frozen=True):
    """Rows for the tables of the same names."""

    decision: dict[str, Any]
    usage: list[dict[str, Any]]
    events: list[GuardrailEvent]
    rollups: list[dict[str, Any]]
    correction: StoredCorrection | None


def extract(decision_id: str, record: Record, policy: EffectivePolicy, encoded: bytes) -> Extract:
    """`encoded` is the record as it was in the outbox; it is stored as it is."""
    event, result = record.event, record.result
    quantities = _quantities(record)
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
        "quantities": msgspec.json.encode(quantities, order="sorted").decode(),
        "count": result.count,
        "policy_digest": record.policy,
        "verified": None,
        "record": encoded,
    }
    used = record.debited
    return Extract(
        decision=decision,
        usage=_usage(decision_id, record, policy, used),
        correction=correction_of(decision_id, record, policy),
        events=_restored(decision_id, record)
        or _repairs(decision_id, record, policy)
        or _events(decision_id, record, policy),
        rollups=_rollups(record, quantities, used),
    )


def _quantities(record: Record) -> dict[str, int]:
    """What the record is about: what was asked for, or what a reservation ended with."""
    if record.event is None:
        return {}
    if record.kind == "finish" and record.reservation is not None:
        return dict(record.reservation.committed)
    return record.event.quantities


def effective_at_us(record: Record) -> int:
    """The instant that the debit counts at, here and in UsageBox."""
    return record.reservation.effective_at_us if record.reservation is not None else record.now_us


def usage_id_of(decision_id: str, meter: str, used: Collection[str]) -> str:
    """What the usage of one meter is called here and in UsageBox; `used` are all meters of the decision."""
    return f"{decision_id}:{meter}" if len(used) > 1 else decision_id


def _usage(decision_id: str, record: Record, policy: EffectivePolicy, used: dict[str, int]) -> list[dict[str, Any]]:
    event = record.event
    if event is None:
        return []
    return [
        {
            "event_id": usage_id_of(decision_id, meter, used),
            "decision_id": decision_id,
            "customer_id": record.customer_id,
            "meter": meter,
            "quantity": quantity,
            "unit": policy.meters.get(meter, "unit"),
            "model": without_nul(event.model) if event.model is not None else None,
            "at_us": effective_at_us(record),
        }
        for meter, quantity in sorted(used.items())
    ]


def _events(decision_id: str, record: Record, policy: EffectivePolicy) -> list[GuardrailEvent]:
    result, before = record.result, record.standing.state
    override_id = result.override_id or None
    events: list[tuple[str, str | None, str | None, str | None, str | None, str]] = []
    corrected = correction_of(decision_id, record, policy)
    if corrected is not None:
        events.append(
            ("corrected", None, None, None, None, f"{corrected.meter} of {corrected.corrects} {told(corrected)}")
        )
    for limit_id, name in result.crossed:
        kind = "overage_started" if name == "overage" else "threshold_crossed"
        message = (
            f"{limit_id}: use went beyond the included amount; it is billed from here on"
            if name == "overage"
            else f"{limit_id}: {name} of the cap is used"
        )
        events.append((kind, limit_id, override_id, None, None, message))
    if result.state_after != before:
        kind = STATE_KINDS[result.state_after]
        cause = _cause(record, policy)
        message = (
            f"{result.state_after.capitalize()}: {cause.sentence}" if result.state_after != "ok" else cause.sentence
        )
        events.append((kind, cause.limit_id, cause.override_id or override_id, before, result.state_after, message))
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
            override_id=cited_override_id,
            message=message,
        )
        for number, (kind, cited_limit_id, cited_override_id, from_state, to_state, message) in enumerate(
            events, start=1
        )
    ]


def _repairs(decision_id: str, record: Record, policy: EffectivePolicy) -> list[GuardrailEvent]:
    """One event for each limit that a repair put right, and one for what would have kept reservations from ending."""
    if not record.repaired:
        return []  # nearly every record
    units = {each.limit_id: each.unit_in(policy) for each in record.repaired}
    surplus: dict[str, int] = defaultdict(int)
    missing: dict[str, int] = defaultdict(int)
    used = [each for each in record.repaired if each.kind == "used"]
    for each in (each for each in record.repaired if each.kind != "used"):
        too_much = surplus if each.after < each.before else missing
        too_much[each.limit_id] += abs(each.after - each.before)
    told = [
        (
            limit_id,
            f"{limit_id}: {quantity_text(much, units[limit_id])} held for reservations that are no more",
        )
        for limit_id, much in surplus.items()
        if limit_id
    ]
    told += [
        (limit_id, f"{limit_id}: {quantity_text(much, units[limit_id])} of open reservations not counted")
        for limit_id, much in missing.items()
        if limit_id
    ]
    told += [
        (
            each.limit_id,
            "{}: {} counted as used where the records have {}".format(
                each.limit_id, *(quantity_text(units_, units[each.limit_id]) for units_ in (each.before, each.after))
            ),
        )
        for each in used
    ]
    if any(not each.limit_id for each in record.repaired):
        told.append(("", "reservations with a wrong or missing end in the calendar"))
    return [
        GuardrailEvent(
            id=f"{decision_id}.{number}",
            customer_id=record.customer_id,
            kind="repair",
            at_us=record.now_us,
            limit_id=limit_id or None,
            decision_id=decision_id,
            message=f"{message}; put right",
        )
        for number, (limit_id, message) in enumerate(told, start=1)
    ]


def _restored(decision_id: str, record: Record) -> list[GuardrailEvent]:
    if record.kind != "restored":
        return []
    return [
        GuardrailEvent(
            id=f"{decision_id}.1",
            customer_id=record.customer_id,
            kind="repair",
            at_us=record.now_us,
            decision_id=decision_id,
            message="Redis had lost what it knew of this customer; made again from the stored records",
        )
    ]


class Cause(msgspec.Struct, frozen=True):
    """Why a state changed: a sentence, and the limit or override behind it."""

    sentence: str
    limit_id: str | None = None
    override_id: str | None = None


def _cause(record: Record, policy: EffectivePolicy) -> Cause:
    state = record.result.state_after
    if state == "suspended":
        return Cause("the billing system says so")
    if state == "ok":
        return Cause(f"Resumed: no longer {record.standing.state}")
    for override in record.overrides:
        if state == "stopped" and override.kind == "stop" and override.until_us > record.now_us:
            return Cause("an override says so", override_id=override.id)
    for line in _lines_after(record, policy):
        exhausted = line.remaining is not None and line.remaining <= line.floor
        ends_so = line.when_exceeded == ("stop" if state == "stopped" else "throttle")
        if line.kind in ("quota", "credits") and exhausted and ends_so and line.mode == "enforce":
            left = quantity_text(max(0, line.remaining or 0), line.unit)
            return Cause(f"{line.id} has {left} left", line.id)
    if record.kind == "decision" and record.result.limit_id:
        return Cause(f"{record.result.limit_id} denied an event", record.result.limit_id)
    return Cause(f"was {record.standing.state} until now")


def _lines_after(record: Record, policy: EffectivePolicy) -> Sequence[LimitResult]:
    """The limits as they stand after the record."""
    if record.kind == "decision":
        return verdict_of(record, policy).limits
    return snapshot_of(record, policy).limits()


def _rollups(record: Record, quantities: dict[str, int], used: dict[str, int]) -> list[dict[str, Any]]:
    if record.kind not in ("decision", "finish"):
        return []
    outcome = record.result.outcome if record.kind == "decision" else "none"
    seconds = effective_at_us(record) // 1_000_000
    return [
        {
            "customer_id": record.customer_id,
            "meter": meter,
            "width_seconds": width,
            "start_seconds": seconds - seconds % width,
            "units": used.get(meter, 0),
            "allowed": int(outcome == "allow"),
            "throttled": int(outcome == "throttle"),
            "stopped": int(outcome == "stop"),
        }
        for meter in quantities
        for width in (MINUTE_SECONDS, HOUR_SECONDS)
    ]
