"""What requests say: bodies, spans of time, months. Errors are plain text, with the engine's statuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The body of a request that says it is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HTTPException("Expected request with `Content-Type: application/json`", status_code=415)
    return await request.body()


async def read_json(request: Request[Any, Any, Any]) -> Any:
    try:
        return msgspec.json.decode(await read_body(request))
    except msgspec.MsgspecError as exc:
        raise HTTPException(f"Failed to parse the request body as JSON: {exc}", status_code=400) from exc


def instant_ms(text: str) -> int:
    """Unix milliseconds of an RFC 3339 instant. Raises ValueError."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("input contains invalid characters")
    return round(datetime.fromisoformat(text.upper()).timestamp() * 1000)


def read_span(query: Mapping[str, str]) -> tuple[int, int]:
    """`from` and `to` in Unix milliseconds. One that is missing is a bad request, one that is invalid an internal error:
    so does the engine."""
    found = []
    for name in ("from", "to"):
        if name not in query:
            raise HTTPException(f"Failed to deserialize query string: missing field `{name}`", status_code=400)
        try:
            found.append(instant_ms(query[name]))
        except ValueError as exc:
            raise internal_error(f"invalid `{name}`: {exc}") from exc
    return found[0], found[1]


def read_month(month: str) -> tuple[int, int]:
    """First instant of a period `YYYY-MM`, and of the next one."""
    try:
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as exc:
        raise internal_error(f"invalid period: period must be YYYY-MM, got `{month}`") from exc
    end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp() * 1000), int(end.timestamp() * 1000)


def internal_error(text: str) -> HTTPException:
    return HTTPException(f"Internal server error: {text}", status_code=500)
