"""Query parameters, read with bounds and errors that name them."""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Request

from spendgate.errors import InvalidEvent
from spendgate_daemon.api.problems import invalid
from spendgate_daemon.api.reading import MAX_DIGITS, read_instant, unix_us

MAX_PAGE: Final = 200
MAX_TEXT: Final = 512
"""Room for an id of 256 bytes in a cursor."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Query:
    """The parameters of one request; any that a route does not ask for is refused by name."""

    def __init__(self, request: Request[Any, Any, Any], known: frozenset[str]) -> None:
        self._values: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            if name not in known:
                raise invalid(name[:100], f"absent: it is no parameter here; known are {', '.join(sorted(known))}")
            if name in self._values:
                raise invalid(name, "given once")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None or value == "":
            return None
        if len(value) > MAX_TEXT or _CONTROL.search(value):
            raise invalid(name, f"at most {MAX_TEXT} characters, without control characters")
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
        numbered = value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS
        if not numbered or not 1 <= int(value) <= MAX_PAGE:
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
        return unix_us(instant)
