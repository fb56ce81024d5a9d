"""Operations and shapes → the OpenAPI document."""

from __future__ import annotations

import re
from typing import Any, Final

from spendgate.token import MAX_ID_CHARACTERS
from spendgate_daemon.api.openapi.operations import OPERATIONS, Operation
from spendgate_daemon.api.openapi.schemas import ID, SCHEMAS
from spendgate_daemon.api.openapi.shapes import Shape, known, one_of, text
from spendgate_daemon.api.problems import CONTENT_TYPE
from spendgate_daemon.store.sources import SINKS

_KEY: Final = "key"
_DECIDING: Final = ("/v1/decisions", "/v1/reservations")
"""Paths that answer with a decision's outcome as the status where the caller prefers that."""

_SEGMENTS: Final = {
    "reservation_id": text(1, MAX_ID_CHARACTERS),
    "sink": one_of(*SINKS),
    "position": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}
_REQUIRED: Final = ("meter", "sink")
"""Query parameters that their operations can't do without."""

_STATUS_WORDS: Final = {
    "200": "As asked",
    "201": "Made",
    "204": "Taken",
    "304": "Not modified",
    "400": "Evaluation failed",
    "402": "With `Prefer: status=gateway`: an exhausted limit stops it",
    "403": "With `Prefer: status=gateway`: a forbidden model, or a suspended, cancelled, unknown or stopped customer",
    "404": "No such flag",
    "429": "With `Prefer: status=gateway`: throttled",
    "503": "Not ready",
}


def openapi_document() -> dict[str, Any]:
    """The whole API, as JSON-able values."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Spendgate",
            "version": "1",
            "description": "Decides, before the work is done, whether usage fits the customer's contract.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "responses": {
                "Problem": {
                    "description": "Problem details (RFC 9457)",
                    "content": {CONTENT_TYPE: {"schema": known("Problem")}},
                }
            },
            "securitySchemes": {
                _KEY: {"type": "http", "scheme": "bearer", "description": "An API key, `sg_<id>_<secret>`"}
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "security": [] if operation.scope is None else [{_KEY: []}],
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    if operation.scope:
        described["description"] = f"Needs a key with the scope `{operation.scope}`, or `admin`."
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": operation.body}},
        }
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    segments = re.findall(r"\{([^}]+)\}", operation.path)
    return [
        *({"name": name, "in": "path", "required": True, "schema": _SEGMENTS.get(name, ID)} for name in segments),
        *(
            {"name": name, "in": "query", "required": name in _REQUIRED, "schema": s}
            for name, s in operation.query.items()
        ),
        *(
            {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": why}
            for name, why in operation.headers.items()
        ),
    ]


def _responses(operation: Operation) -> dict[str, Any]:
    responses = {status: _response(operation, status, shape) for status, shape in operation.answers.items()}
    problem = {"$ref": "#/components/responses/Problem"}
    return responses | {"4XX": problem, "5XX": problem}


def _response(operation: Operation, status: str, shape: Shape | None) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _STATUS_WORDS[status]}
    if shape is None:
        return described
    content = {operation.content_type: {"schema": shape}}
    if operation.path in _DECIDING and status == "403":
        content[CONTENT_TYPE] = {"schema": known("Problem")}
    described["content"] = content
    if operation.path in _DECIDING and status in ("402", "403", "429"):
        applied = {"description": "`status=gateway`", "schema": {"type": "string"}}
        described["headers"] = {"Preference-Applied": applied}
        if status == "429":
            described["headers"]["Retry-After"] = {"description": "Whole seconds", "schema": {"type": "integer"}}
    return described
