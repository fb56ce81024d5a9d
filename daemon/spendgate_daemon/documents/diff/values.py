"""What differs between two values of one field, and whether the new one lets less through, or more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

Effect = Literal["tighter", "looser", "neither"]


class Difference(msgspec.Struct, frozen=True):
    """One field of the document, of a plan or of a limit. `old` or `new` is empty where there was, or is, nothing."""

    field: str
    old: str
    new: str
    effect: Effect = "neither"


Differences = Iterator[Difference]

_OPPOSITE: Final[dict[Effect, Effect]] = {"tighter": "looser", "looser": "tighter", "neither": "neither"}


def ranked(old: float, new: float, more: Effect) -> Effect:
    """The effect of going from one rank to another, where a higher one is `more`."""
    if old == new:
        return "neither"
    return more if new > old else _OPPOSITE[more]


def number(field: str, old: int, new: int, more: Effect) -> Differences:
    if old != new:
        yield Difference(field, f"{old:,}", f"{new:,}", ranked(old, new, more))


def word(field: str, old: str, new: str, order: tuple[str, ...] = ()) -> Differences:
    """Two words of a list that goes from the loosest to the tightest; of none, where nothing is tighter."""
    if old != new:
        known = old in order and new in order
        yield Difference(field, old, new, ranked(order.index(old), order.index(new), "tighter") if known else "neither")
