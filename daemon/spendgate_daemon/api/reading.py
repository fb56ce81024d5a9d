"""Reading what callers send: strictly, because a number that changes on the way is money.

Python's own JSON reader is used for its hooks: it can refuse a key that appears twice, which msgspec cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NoReturn

from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent, usage_event
from spendgate_daemon.api.problems import Problem, forbidden, invalid, malformed

MAX_BODY_BYTES: Final = 64 * 1024
MAX_DIGITS: Final = 40

EVENT_FIELDS: Final = frozenset(
    {"event_id", "customer_id", "meter", "quantity", "quantities", "metadata", "occurred_at", "dry_run"}
)

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def read_json(body: bytes) -> Any:
    """Raises the 400 problem for anything but one JSON value with unique keys and finite numbers."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise malformed(f"the body is not valid UTF-8 at byte {exc.start}") from exc
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as exc:
        raise malformed(f"line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise malformed("the body is nested too deeply") from exc


def read_object(body: bytes, known: frozenset[str], what: str) -> dict[str, Any]:
    """A JSON object with no fields but the known ones."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise invalid("body", f"a JSON object: {what}")
    refuse_unknown(value, known)
    return value


def refuse_unknown(value: Mapping[str, Any], known: frozenset[str], path: str = "") -> None:
    for name in value:
        if name not in known:
            shown = f"{path}{name}"[:100].encode("utf-8", "replace").decode()
            raise invalid(shown, f"absent: it is no field here; known are {', '.join(sorted(known))}")


def read_event(
    value: Mapping[str, Any],
    *,
    bound_to: str | None,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
) -> tuple[UsageEvent, bool]:
    """The event and whether it is a dry run. Raises problems and InvalidEvent, naming the field."""
    refuse_unknown(value, EVENT_FIELDS)
    customer_id = value.get("customer_id", bound_to)
    if bound_to is not None and customer_id != bound_to:
        raise forbidden("this key is bound to another customer")
    if "meter" not in value and "quantities" not in value:
        raise invalid("meter", "given, with quantity; or quantities, an object of meters")
    dry_run = value.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise invalid("dry_run", "true or false")
    event_id = value.get("event_id", idempotency_key)
    if event_id is None and "event_id" in value:
        raise invalid("event_id", "text, or absent")
    event = usage_event(
        customer_id,
        value.get("meter"),
        value.get("quantity"),
        quantities=value.get("quantities"),
        event_id=event_id,
        metadata=value.get("metadata"),
        occurred_at=_instant(value.get("occurred_at")),
        traceparent=traceparent,
    )
    return event, dry_run


def read_instant(field: str, text: Any) -> datetime:
    """An RFC 3339 instant with its zone. Raises InvalidEvent."""
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError as exc:
            raise InvalidEvent(field, "an RFC 3339 instant that exists") from exc
    raise InvalidEvent(field, "an RFC 3339 instant such as 2026-12-01T00:00:00Z")


def _instant(text: Any) -> datetime | None:
    return None if text is None else read_instant("occurred_at", text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        shown = twice[:100].encode("utf-8", "replace").decode()
        raise Problem(
            400, "duplicate-key", "A key appears twice", f"{shown} appears twice in one object", field=shown,
            expected="given once",
        )  # fmt: skip
    return value


def _constant(text: str) -> NoReturn:
    raise malformed(f"{text} is no number in JSON")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise malformed(f"a number has at most {MAX_DIGITS} digits")
    return int(text)
