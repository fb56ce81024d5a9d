"""Rows of the store → messages. `schemas/` describes them for those who read the topics.

The `id` of a message is that of its event, in the value and as a header: whoever reads without `read_committed`, or two
topics that were restored apart, knows by it what he has seen.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

import msgspec

from spendgate.reasons import rfc3339
from spendgate.record import Record, decode_record
from spendgate_daemon.store.decisions import StoredDecision
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.store.sources import SourceName
from spendgate_daemon.store.usage import UsageEventRow

KINDS: Final[tuple[SourceName, ...]] = ("usage", "decisions", "guardrail_events")
SCHEMA_VERSION: Final = "1"
"""It changes when a field goes or means something else; a new field does not change it."""

CONTENT_TYPE: Final = "application/json"


class Message(msgspec.Struct, frozen=True):
    """`position` and `at_us` are those of the row; the customer is the key, so one customer's messages are in order."""

    position: int
    id: str
    at_us: int
    customer_id: str
    value: bytes
    traceparent: str | None

    def headers(self, source: str) -> list[tuple[str, str | bytes | None]]:
        """`source` tells whose events these are, as in UsageBox."""
        told: list[tuple[str, str | bytes | None]] = [
            ("id", self.id),
            ("source", source),
            ("content-type", CONTENT_TYPE),
            ("schema-version", SCHEMA_VERSION),
        ]
        return told if self.traceparent is None else [*told, ("traceparent", self.traceparent)]


def schema_of(kind: SourceName) -> dict[str, Any]:
    """The JSON Schema of a kind's messages."""
    text = files(__package__).joinpath("schemas", f"{kind}.json").read_text(encoding="utf-8")
    described: dict[str, Any] = json.loads(text)
    return described


def traceparent_of(encoded: bytes | None) -> str | None:
    """Of the event that a stored record is about."""
    event = decode_record(encoded).event if encoded is not None else None
    return event.traceparent if event is not None else None


def usage_message(row: UsageEventRow, traceparent: str | None) -> Message:
    value = {
        "id": row.event_id,
        "decision_id": row.decision_id,
        "customer_id": row.customer_id,
        "effective_at": rfc3339(row.at_us),
        "meter": row.meter,
        "quantity": row.quantity,
        "unit": row.unit,
        "model": row.model,
        "corrects": row.corrects,
        "correction_reason": row.correction_reason,
    }
    return _message(row.position, row.event_id, row.at_us, row.customer_id, value, traceparent)


def decision_message(row: StoredDecision) -> Message:
    record: Record = decode_record(row.record)
    event = record.event
    value = {
        "id": row.decision_id,
        "kind": row.kind,
        "customer_id": row.customer_id,
        "at": rfc3339(row.at_us),
        "event_id": row.event_id or None,
        "mode": row.mode,
        "outcome": row.outcome,
        "reason": row.reason,
        "limit_id": row.limit_id or None,
        "override_id": record.result.override_id or None,
        "quantities": row.quantities,
        "model": event.model if event is not None else None,
        "count": row.count,
        "customer_state": record.result.state_after,
        "policy_digest": row.policy_digest,
    }
    traceparent = event.traceparent if event is not None else None
    return _message(row.position, row.decision_id, row.at_us, row.customer_id, value, traceparent)


def guardrail_event_message(event: GuardrailEvent, traceparent: str | None) -> Message:
    value = {
        "id": event.id,
        "kind": event.kind,
        "customer_id": event.customer_id,
        "at": rfc3339(event.at_us),
        "limit_id": event.limit_id,
        "from_state": event.from_state,
        "to_state": event.to_state,
        "decision_id": event.decision_id,
        "override_id": event.override_id,
        "message": event.message,
    }
    return _message(event.position, event.id, event.at_us, event.customer_id, value, traceparent)


def _message(
    position: int, id_: str, at_us: int, customer_id: str, value: dict[str, Any], traceparent: str | None
) -> Message:
    return Message(position, id_, at_us, customer_id, msgspec.json.encode(value), traceparent)
