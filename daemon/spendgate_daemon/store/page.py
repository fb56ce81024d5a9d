"""Lists page by an opaque cursor: where the last row stood."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

Row = TypeVar("Row")


class Page(msgspec.Struct, Generic[Row], frozen=True):
    """`next_cursor` None: this was the last page."""

    items: list[Row]
    next_cursor: str | None
