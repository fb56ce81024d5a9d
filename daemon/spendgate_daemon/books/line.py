"""One line of the books, and what its differences are: pure, whoever read the numbers.

The three can't be read at one moment. So each reading says what was on its way then, and only what nothing explains is drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from spendgate_daemon.store.books import Kept, Period, Waiting

Cause = Literal["in_flight", "late", "dead_lettered", "external", "rolled_up_too_early", "not_counted", "drift"]
"""`in_flight`: decided, and on its way to the next book. `late`: so, and its hour is summed up in UsageBox already.
`dead_lettered`: refused by UsageBox and set aside. `external`: in UsageBox from elsewhere. `rolled_up_too_early`: in
UsageBox, and missing in its hourly sums until these are rebuilt. `not_counted`: used while another plan was in force, which
had no such limit. `drift`: nothing explains it."""

BookPair = Literal["enforced/recorded", "recorded/billed"]

SENTENCES: dict[Cause, str] = {
    "in_flight": "on its way to the next book",
    "late": "on its way to UsageBox, whose hour is summed up already",
    "dead_lettered": "refused by UsageBox and set aside",
    "external": "recorded in UsageBox by others",
    "rolled_up_too_early": "in UsageBox, but not in its hourly sums until these are rebuilt",
    "not_counted": "used under a plan without this limit",
    "drift": "without a cause",
}


class Enforced(msgspec.Struct, frozen=True):
    """`used` is what Redis counted; of it, `on_its_way` isn't stored; `recorded` is what the store had of what was decided by
    then, and of that `not_counted` was used while the limit was not in force. `read_at_us` is Redis' clock."""

    used: int
    on_its_way: int
    recorded: int
    not_counted: int = 0
    read_at_us: int = 0


class Billed(msgspec.Struct, frozen=True):
    """UsageBox's book: ours and others', as it sums them up (`own`), and of ours what its raw events say (`raw`). The store
    was read before and after."""

    own: int
    raw: int
    external: int
    before: Waiting
    after: Waiting


class Difference(msgspec.Struct, frozen=True):
    """`quantity` is what the second of the two books lacks; below 0: has too much."""

    between: BookPair
    cause: Cause
    quantity: int


class Line(msgspec.Struct, frozen=True):
    """`enforced` None: no limit counts this. `billed` None: UsageBox could not be read."""

    period: Period
    enforced: Enforced | None
    recorded: int
    billed: Billed | None
    compared_at_us: int

    def differences(self) -> list[Difference]:
        """Every difference by its cause; what is the same in all three books gives none."""
        found = [*_enforced(self.enforced), *_billed(self.billed)]
        return [each for each in found if each.quantity]

    @property
    def differs(self) -> bool:
        """Whether our own books do: what others recorded in UsageBox is told, and no difference between them."""
        return any(each.cause != "external" for each in self.differences())

    def kept(self) -> Kept:
        """As the store keeps it."""
        drifts = any(each.cause == "drift" for each in self.differences())
        return Kept(msgspec.json.encode(self).decode(), self.differs, drifts, self.compared_at_us)

    def drift(self, between: BookPair) -> int:
        """What nothing explains between two books."""
        return sum(each.quantity for each in self.differences() if each.between == between and each.cause == "drift")


def line_of(kept: str) -> Line:
    """Inverse of `kept`."""
    return _decoder.decode(kept)


_decoder = msgspec.json.Decoder(Line)


def _enforced(enforced: Enforced | None) -> Iterator[Difference]:
    if enforced is None:
        return
    yield Difference("enforced/recorded", "in_flight", enforced.on_its_way)
    yield Difference("enforced/recorded", "not_counted", -enforced.not_counted)
    explained = enforced.on_its_way - enforced.not_counted
    yield Difference("enforced/recorded", "drift", enforced.used - enforced.recorded - explained)


def _billed(billed: Billed | None) -> Iterator[Difference]:
    if billed is None:
        return
    before, after = billed.before, billed.after
    yield Difference("recorded/billed", "external", -billed.external)
    yield Difference("recorded/billed", "rolled_up_too_early", billed.raw - billed.own)
    # What was open while UsageBox was read may be in its book or not: at least it has what was confirmed and all that takes
    # away, at most everything but that.
    least = min(before.confirmed, after.confirmed) + min(before.owed, after.owed)
    most = max(before.recorded - before.owed, after.recorded - after.owed)
    drift = max(0, least - billed.raw) or min(0, most - billed.raw)
    yield Difference("recorded/billed", "drift", drift)
    rest = after.recorded - billed.raw - drift
    dead = _part(rest, after.dead)
    late = _part(rest - dead, after.late)
    yield Difference("recorded/billed", "dead_lettered", dead)
    yield Difference("recorded/billed", "late", late)
    yield Difference("recorded/billed", "in_flight", rest - dead - late)


def _part(rest: int, known: int) -> int:
    """What of a difference is explained by something known, which may take away."""
    return min(rest, known) if rest > 0 and known > 0 else max(rest, known) if rest < 0 and known < 0 else 0
