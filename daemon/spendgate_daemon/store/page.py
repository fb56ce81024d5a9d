"""Lists page by an opaque cursor: where the last row stood. Rows that come while somebody pages shift nothing."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

MAX_POSITION: Final = 2**63 - 1

Row = TypeVar("Row")


class Page(msgspec.Struct, Generic[Row], frozen=True):
    """`next_cursor` None: this was the last page."""

    items: list[Row]
    next_cursor: str | None


def position_of(text: str, most: int = MAX_POSITION) -> int:
    """A place in a list. Raises ValueError unless it is a whole number that its column can hold."""
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(most)) or int(text) > most:
        raise ValueError("the cursor is not one of this list")
    return int(text)
