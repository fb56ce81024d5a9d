"""Query parameters, read with bounds and errors that name them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from litestar import Request

from spendgate.errors import InvalidEvent
from spendgate_daemon.api.problems import invalid
from spendgate_daemon.api.reading import read_instant

MAX_PAGE: Final = 200
MAX_TEXT: Final = 256


class Query:
    """The parameters of one request; any that a route does not ask for is refused by name."""

    def __init__(self, request: Request[Any, Any, Any], known: frozenset[str]) -> None:
        self._values: dict[str, str] = dict(request.query_params)
        for name in self._values:
            if name not in known:
                raise invalid(name[:100], f"absent: it is no parameter here; known are {', '.join(sorted(known))}")

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None or value == "":
            return None
        if len(value) > MAX_TEXT:
            raise invalid(name, f"at most {MAX_TEXT} characters")
        return value

    def one_of(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
        value = self.text(name)
        if value is None:
            return default
        if value not in choices:
            raise invalid(name, f"one of {', '.join(choices)}")
        return value

    def limit(self, default: int = 50) -> int:
        value = self.text("limit")
        if value is None:
            return default
        if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= MAX_PAGE:
            raise invalid("limit", f"a whole number from 1 to {MAX_PAGE}")
        return int(value)

    def position(self) -> str | None:
        """The cursor of a list that pages by position."""
        value = self.text("cursor")
        if value is not None and not (value.isascii() and value.isdigit() and len(value) < 19):
            raise invalid("cursor", "a next_cursor of this list")
        return value

    def instant_us(self, name: str) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            instant = read_instant(name, value.replace(" ", "+"))
        except InvalidEvent as exc:
            raise invalid(exc.field, exc.expected) from exc
        return int((instant - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
