"""Reservations: quantity held before the real one is known.

A reservation ends exactly once: committed with what was really used, released, or ended after its deadline. `finish` is
pure and is the definition of what an end does to the counters; the Redis script does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

import msgspec

from spendgate.correction import Correction
from spendgate.decide import check_limit, context_of
from spendgate.errors import AboveReserved
from spendgate.event import UsageEvent
from spendgate.limits import NOT_KEPT, Counters, counter_field
from spendgate.limits.check import Ending, amount_of, applies
from spendgate.limits.layout import pack_integers, unpack_integers
from spendgate.limits.result import LimitResult
from spendgate.policy import EffectivePolicy, ReservationTerms
from spendgate.state import PolicyState

Action = Literal["commit", "release", "extend"]
ReservationStatus = Literal["open", "committed", "released", "expired", "settled", "corrected"]
"""`settled`: no reservation, but what a process let pass by itself in an outage; `corrected`: none either, but what was
committed before and is put right."""
Quantities = tuple[tuple[str, int], ...]

MAX_OPEN: Final = 100_000
"""Open reservations of one customer. A `concurrency` limit is the contract; this only bounds memory."""


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What a record says of its reservation. `effective_at_us` names the periods it counts in; `stream_id` is the
    entry that reserved (empty in that entry itself); `actual` is what the caller committed, `committed` what was
    debited for it; both in the order of the meters' names. Of a correction, `stream_id` is the entry that is put right,
    `actual` the right quantity and `committed` its difference to what counted before."""

    status: ReservationStatus
    effective_at_us: int
    deadline_us: int
    stream_id: str
    committed: Quantities = ()
    actual: Quantities = ()
    correction: Correction | None = None


class OpenEntry(msgspec.Struct, frozen=True):
    """An open reservation as it is stored: HEAD in reservations.lua, and the event."""

    stream_id: str
    effective_at_us: int
    deadline_us: int
    digest: str
    event: UsageEvent

    def encode(self) -> bytes:
        epoch, sequence = map(int, self.stream_id.split("-"))
        numbers = pack_integers(_HEAD_WIDTHS, (epoch, sequence, self.effective_at_us, self.deadline_us))
        names = self.digest.encode() + self.event.identity() + self.event.fingerprint(reserved=True)
        return numbers + names + self.event.encode()

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`. Raises ValueError or msgspec.DecodeError."""
        (epoch, sequence, effective_at_us, deadline_us), rest = unpack_integers(_HEAD_WIDTHS, raw)
        event = _event_decoder.decode(rest[_NAMES_BYTES:])
        return cls(f"{epoch}-{sequence}", effective_at_us, deadline_us, rest[:32].decode(), event)


_HEAD_WIDTHS: Final = (6, 5, 7, 7)
_NAMES_BYTES: Final = 32 + 12 + 6
_event_decoder = msgspec.msgpack.Decoder(UsageEvent)


class Finish(msgspec.Struct, frozen=True):
    """`counters` holds the new value of each counter that changes; `limits` are the trace's lines, with numbers after
    the end and the committed amount."""

    committed: dict[str, int]
    counters: Counters
    crossed: tuple[tuple[str, str], ...]
    limits: tuple[LimitResult, ...]


def committed_quantities(terms: ReservationTerms, held: Mapping[str, int], actual: Mapping[str, int]) -> dict[str, int]:
    """What is debited for what was really used. Raises AboveReserved when the plan rejects more than was reserved."""
    committed = {}
    for meter in sorted(actual):
        quantity, reserved = actual[meter], held.get(meter, 0)
        if quantity > reserved and terms.above == "reject":
            raise AboveReserved(meter)
        if quantity > reserved and terms.above == "cap":
            quantity = reserved
        if quantity:
            committed[meter] = quantity
    return committed


def finish(
    policy: EffectivePolicy,
    state: PolicyState | None,
    counters: Counters,
    event: UsageEvent,
    committed: Mapping[str, int],
    effective_at_us: int,
    now_us: int,
    *,
    held: bool = True,
    corrects: bool = False,
) -> Finish:
    """Debit `committed` of `event` in the periods of `effective_at_us`, and free what was reserved for it.

    `policy` is the one that was in force when it was reserved, so a downgrade honours it. `held` False: nothing is
    reserved in the counters, because Redis has lost the reservation or the debit comes from an outage. `corrects`:
    `committed` puts an earlier debit right, so its quantities may be negative, and it changes no counters but those that
    still hold that debit. Raises InvalidEvent when a counter would leave its range.
    """
    committed_event = msgspec.structs.replace(event, quantities=dict(committed))
    ending = Ending(event if held else None, committed_event, effective_at_us, context_of(state, now_us))
    then = context_of(state, effective_at_us)
    after: Counters = {}
    crossed: list[tuple[str, str]] = []
    lines = []
    for limit in policy.limits:
        field = counter_field(limit)
        stored: Any = counters.get(field)
        counter: Any = None if stored == NOT_KEPT else stored
        touched = (held and amount_of(event, limit.meters)) or amount_of(committed_event, limit.meters)
        concerned = bool(touched) and applies(limit.match, event) and stored != NOT_KEPT
        if corrects:
            concerned = concerned and limit.keeps(counter, effective_at_us)
        if concerned:
            counter, names = limit.finish(counter, ending)
            crossed += [(limit.id, name) for name in names]
            if counter is not None and counter != stored:
                after[field] = counter
        counts = concerned and limit.Counter is not None
        amount = limit.check(committed_event, None, then).result.amount if counts else 0
        line = check_limit(limit, msgspec.structs.replace(event, quantities={}), counter, then).result
        lines.append(msgspec.structs.replace(line, amount=amount, result="pass" if amount else "not_applicable"))
    return Finish(dict(committed), after, tuple(crossed), tuple(lines))
