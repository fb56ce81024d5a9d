"""What OpenAPI can't find out by itself: the plain ASGI routes, keys, and problem details."""

from __future__ import annotations

import copy
from typing import Any, Final

from spendgate.event import MAX_ID_BYTES, MAX_METERS, MAX_QUANTITY

_QUANTITY: Final = {"type": "integer", "minimum": 1, "maximum": MAX_QUANTITY}
_ID: Final = {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES}

_SCHEMAS: Final[dict[str, Any]] = {
    "UsageEvent": {
        "type": "object",
        "description": "Either meter and quantity, or quantities, which are debited all or none.",
        "required": ["customer_id"],
        "additionalProperties": False,
        "properties": {
            "event_id": _ID | {"description": "Unique per customer; makes a retry safe."},
            "customer_id": _ID,
            "meter": _ID,
            "quantity": _QUANTITY,
            "quantities": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": MAX_METERS,
                "additionalProperties": _QUANTITY,
            },
            "metadata": {"type": "object", "description": "Flat: text, numbers, booleans or null."},
            "occurred_at": {"type": "string", "format": "date-time"},
            "dry_run": {"type": "boolean"},
        },
    },
    "Decision": {
        "type": "object",
        "required": [
            "decision",
            "decision_id",
            "event_id",
            "customer_id",
            "customer_state",
            "reason",
            "decision_trace",
        ],
        "properties": {
            "decision": {"enum": ["allow", "throttle", "stop"]},
            "decision_id": {"type": ["string", "null"], "description": "Null for a dry run."},
            "event_id": {"type": "string"},
            "retry_safe": {"type": "boolean"},
            "duplicate": {"type": "boolean"},
            "dry_run": {"type": "boolean"},
            "customer_id": {"type": "string"},
            "customer_state": {"enum": ["ok", "throttled", "stopped", "suspended"]},
            "reason": {"type": "object"},
            "effective_at": {"type": "string", "format": "date-time"},
            "retry_after_seconds": {"type": ["integer", "null"]},
            "unblock": {"type": ["object", "null"]},
            "policy": {"type": "object"},
            "decision_trace": {"type": "object"},
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457 problem details.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "field": {"type": "string"},
            "expected": {"type": "string"},
        },
    },
}


def with_decision_path(schema: dict[str, Any]) -> dict[str, Any]:
    """The whole API. `schema` is left as it is."""
    whole = copy.deepcopy(schema)
    components = whole.setdefault("components", {})
    components.setdefault("schemas", {}).update(_SCHEMAS)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "sg_<id>_<secret>"}}
    whole["security"] = [{"key": []}]
    paths = whole.setdefault("paths", {})
    event = {"$ref": "#/components/schemas/UsageEvent"}
    batch = {
        "type": "object",
        "required": ["events"],
        "additionalProperties": False,
        "properties": {"events": {"type": "array", "minItems": 1, "maxItems": 100, "items": event}},
    }
    decision = {"$ref": "#/components/schemas/Decision"}
    results = {"type": "object", "properties": {"results": {"type": "array", "items": {"type": "object"}}}}
    _add(paths, "/v1/decisions", "decide", "Decide one event before the work is done", event, decision)
    _add(paths, "/v1/decisions/batch", "decideBatch", "Decide independent events", batch, results)
    _add(paths, "/v1/usage", "recordUsage", "Record usage that already happened", event, decision)
    problem = {
        "description": "Problem details",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for methods in paths.values():
        for operation in methods.values():
            if isinstance(operation, dict):
                responses = operation.setdefault("responses", {})
                responses.pop("400", None)
                responses["4XX"] = responses["5XX"] = problem
    for public in ("/healthz", "/readyz", "/webhooks/usagebox", "/v1/sessions"):
        for operation in paths.get(public, {}).values():
            operation["security"] = []
    return whole


def _add(paths: dict[str, Any], path: str, name: str, summary: str, body: Any, answer: Any) -> None:
    paths.setdefault(path, {})["post"] = {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "Decided", "content": {"application/json": {"schema": answer}}}},
    }
