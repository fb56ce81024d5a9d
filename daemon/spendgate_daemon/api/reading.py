"""Reading what callers send: strictly, because a number that changes on the way is money.

Python's own JSON reader is used for its hooks: it can refuse a key that appears twice, which msgspec cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent, check_id, usage_event
from spendgate_daemon.api.problems import Problem, forbidden, invalid, malformed, not_found

MAX_DIGITS: Final = 40
MAX_DEPTH: Final = 32

EVENT_FIELDS: Final = frozenset(
    {"event_id", "customer_id", "meter", "quantity", "quantities", "metadata", "occurred_at", "dry_run"}
)

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NOT_IN_IDS = re.compile(r"[\x00-\x1f\x7f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SLASH: Final = "\x1f"
"""Stands for a `/` inside a segment of a path; ids have no control characters, so it means nothing else."""


def read_json(body: bytes) -> Any:
    """Raises the 400 problem for anything but one JSON value with unique keys and finite numbers."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise malformed(f"the body is not valid UTF-8 at byte {exc.start}") from exc
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as exc:
        raise malformed(f"line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise _too_deep() from exc
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:  # fewer brackets can't nest too deeply
        _refuse_depth(value)
    return value


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
            shown = f"{path}{name}"[:100]
            raise invalid(shown, f"absent: it is no field here; known are {', '.join(sorted(known)) or 'none'}")


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
    if "event_id" not in value and idempotency_key is not None:
        check_id("Idempotency-Key", idempotency_key)
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
    """An RFC 3339 instant with its zone, in UTC. Raises InvalidEvent."""
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError) as exc:
            raise InvalidEvent(field, "an RFC 3339 instant that exists") from exc
    raise InvalidEvent(field, "an RFC 3339 instant such as 2026-12-01T00:00:00Z")


def unix_us(instant: datetime) -> int:
    """Unix microseconds, exactly."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def read_text(field: str, value: Any, minimum: int, maximum: int) -> str:
    """Text for people, without surrounding space: `minimum` to `maximum` characters that any database can keep."""
    text = value.strip() if isinstance(value, str) else ""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise invalid(field, "valid Unicode text, without lone surrogates") from exc
    if not isinstance(value, str) or not minimum <= len(text) <= maximum or _CONTROL.search(text):
        raise invalid(field, f"text of {minimum} to {maximum} characters, without control characters")
    return text


def segmented(path: str, raw_path: bytes) -> str:
    """The path to route by: an encoded slash inside a segment stays inside it, for ids that have one. Raises the 404 problem
    for a path with control characters: no id has any, and PostgreSQL refuses NUL even in a question."""
    if _NOT_IN_IDS.search(path):
        raise not_found("ids have no control characters, and nothing is named so")
    if b"%2f" not in raw_path.lower():
        return path
    escaped = re.sub(rb"%2[fF]", b"%1F", raw_path.split(b"?", 1)[0])
    return unquote(escaped.decode("ascii", "replace")).rstrip("/") or "/"


def path_id(segment: str) -> str:
    """The id that a segment of a `segmented` path names."""
    return segment.replace(_SLASH, "/")


def _instant(text: Any) -> datetime | None:
    return None if text is None else read_instant("occurred_at", text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        shown = next(name for name in names if names.count(name) > 1)[:100]
        raise Problem(
            400, "duplicate-key", "A key appears twice", f"{shown} appears twice in one object", field=shown,
            expected="given once",
        )  # fmt: skip
    return value


def _too_deep() -> Problem:
    return malformed(f"the body is nested more than {MAX_DEPTH} levels deep")


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise _too_deep()


def _constant(text: str) -> NoReturn:
    raise malformed(f"{text} is no number in JSON")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise malformed(f"a number has at most {MAX_DIGITS} digits")
    return int(text)
