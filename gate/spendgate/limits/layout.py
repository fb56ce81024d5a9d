"""Counters as bytes: whole numbers of fixed width, big-endian, as Lua's `struct` reads them (`>I5I7`).

A counter is read and written at every decision. As text or MessagePack that costs several times as much of Redis' time
and, for a customer with few uses, as much of its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def pack_integers(widths: Sequence[int], values: Iterable[int]) -> bytes:
    """Each value in its width in bytes. Raises OverflowError for a negative value or one that does not fit."""
    return b"".join(value.to_bytes(width, "big") for width, value in zip(widths, values, strict=True))


def unpack_integers(widths: Sequence[int], raw: bytes) -> tuple[list[int], bytes]:
    """The values, and the bytes that follow them. Raises ValueError for too few bytes."""
    if len(raw) < sum(widths):
        raise ValueError(f"a counter of {len(raw)} bytes, expected {sum(widths)} or more")
    values, at = [], 0
    for width in widths:
        values.append(int.from_bytes(raw[at : at + width], "big"))
        at += width
    return values, raw[at:]
