"""Making a correction: from what the store says of the decision, in Redis, and back into the store by the relay.

Redis makes the corrections of a customer one after the other. One that comes before the last is stored waits for it, and then
starts from what it left: none is lost.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from spendgate.control import STREAM_START, Control
from spendgate.correction import Correction
from spendgate.corrector import Corrector, Original
from spendgate.errors import InvalidEvent, SpendgateError
from spendgate.keys import partition_of, stream_id_of
from spendgate.policy import EffectivePolicy
from spendgate.reasons import quantity_text
from spendgate.record import Record, decode_record
from spendgate_daemon.relays.extract import effective_at_us, usage_id_of
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, place_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.corrections import StoredCorrection
from spendgate_daemon.store.decisions import StoredDecision

WAIT_SECONDS: Final = 5.0
"""For the last correction of the customer to be stored."""

LOOK_SECONDS: Final = 0.05


class Asked(msgspec.Struct, frozen=True):
    """A correction as somebody wants it; `meter` None: the decision's only one."""

    id: str
    decision_id: str
    meter: str | None
    quantity: int
    actor: str
    reason: str


class Made(msgspec.Struct, frozen=True):
    """`decision_id` names the correction's own record; `repeated`: it was made before, and nothing was done now."""

    decision_id: str
    record: Record
    policy: EffectivePolicy
    correction: Correction
    repeated: bool


class UnknownDecision(SpendgateError):
    """The store has no such decision."""


class CorrectionConflict(SpendgateError):
    """Another correction was made with the same id."""


class CorrectionsBehind(SpendgateError):
    """The last correction of the customer is not stored yet."""


class Book(msgspec.Struct, frozen=True):
    """What the store says of a decision: its record, the policy it was made under, what counts now by meter, and how far the
    customer's partition was stored when this was read. `same` is the correction of the id that was asked for, if any."""

    record: Record
    policy: EffectivePolicy
    counts: dict[str, int]
    read_up_to: tuple[int, int]
    same: StoredCorrection | None


class Corrections:
    def __init__(self, control: Control, store: Store, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._corrector = Corrector(control)
        self._store = store
        self._wait_seconds = wait_seconds

    async def make(self, asked: Asked) -> Made:
        """Make it, once per id. Raises InvalidEvent naming the field, UnknownDecision, CorrectionConflict,
        CorrectionsBehind, and what Redis raises."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            book = await asyncio.to_thread(self._read, asked)
            meter = _meter_of(asked, book.counts)
            if book.same is not None:
                return await asyncio.to_thread(self._made_before, asked, meter, book.same)
            made = await self._try(asked, book, meter)
            if made is not None:
                return made
            if time.monotonic() > deadline:
                raise CorrectionsBehind(
                    "another correction of this customer was made a moment ago and is not stored yet; nothing was done"
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def _try(self, asked: Asked, book: Book, meter: str) -> Made | None:
        event, before = book.record.event, book.counts[meter]
        stream_id = stream_id_of(asked.decision_id)
        if event is None or stream_id is None:
            raise UnknownDecision(asked.decision_id)
        usage_id = usage_id_of(asked.decision_id, meter, book.counts)
        correction = Correction(
            asked.id, asked.decision_id, usage_id, meter, before, asked.quantity, asked.actor, asked.reason
        )
        if asked.quantity == before:
            unit = book.policy.meters.get(meter, "unit")
            raise InvalidEvent("quantity", f"another than what counts already, {quantity_text(before, unit)}")
        original = Original(event, book.policy, effective_at_us(book.record), stream_id)
        corrected = await self._corrector.correct(original, correction, book.read_up_to)
        if corrected is None:
            return None
        facts = corrected.record.reservation
        made = facts.correction if facts is not None and facts.correction is not None else correction
        _refuse_other(asked, meter, made.decision_id, made.meter, made.after, made.reason)
        policy = await asyncio.to_thread(self._policy, corrected.record.policy)
        return Made(corrected.record_id, corrected.record, policy, made, corrected.repeated)

    def _read(self, asked: Asked) -> Book:
        stored = self._store.decisions.get(asked.decision_id) if stream_id_of(asked.decision_id) is not None else None
        if stored is None:
            raise UnknownDecision(
                f"there is no decision {asked.decision_id!r}; a decision is stored within a second of its answer"
            )
        # The cursor first: what is read after it may be newer, never older.
        name = f"{CURSOR_PREFIX}{partition_of(stored.customer_id):03d}"
        read_up_to = place_of(self._store.cursors.get(name) or STREAM_START)
        same = self._store.corrections.get(asked.id)
        record = decode_record(stored.record)
        counts = dict(record.debited) if record.mode != "correct" else {}
        if not counts:
            raise InvalidEvent("decision_id", self._expected(stored, record))
        for each in self._store.corrections.of(asked.decision_id):
            counts[each.meter] = each.after
        return Book(record, self._policy(stored.policy_digest), counts, read_up_to, same)

    def _expected(self, stored: StoredDecision, record: Record) -> str:
        """What a decision would have to be, told for one that committed nothing."""
        facts = record.reservation
        if facts is not None and facts.correction is not None:
            return f"the original, {facts.correction.decision_id}: this is a correction of it"
        if stored.mode == "reserve" and stored.outcome == "allow":
            end = self._store.decisions.end_of(stored)
            if end is None:
                return "of committed usage: this reservation is still open, commit or release it"
            return f"of committed usage: this one reserved, and {end.decision_id} is how the reservation ended"
        if stored.kind == "decision":
            return "of committed usage: this event was denied, and a denial debits nothing"
        return "of committed usage: nothing was debited here"

    def _made_before(self, asked: Asked, meter: str, same: StoredCorrection) -> Made:
        _refuse_other(asked, meter, same.corrects, same.meter, same.after, same.reason)
        stored = self._store.decisions.get(same.decision_id)
        record = decode_record(stored.record) if stored is not None else None
        facts = record.reservation if record is not None else None
        if record is None or facts is None or facts.correction is None:
            raise UnknownDecision(f"the store lost {same.decision_id}")
        return Made(same.decision_id, record, self._policy(record.policy), facts.correction, repeated=True)

    def _policy(self, digest: str) -> EffectivePolicy:
        policy = self._store.policies.effective(digest)
        if policy is None:
            raise UnknownDecision(f"the store has no policy {digest}, under which it was decided")
        return policy


def _meter_of(asked: Asked, counts: dict[str, int]) -> str:
    if asked.meter is None and len(counts) == 1:
        return next(iter(counts))
    if asked.meter not in counts:
        which = f"one that was debited: {', '.join(sorted(counts))}"
        raise InvalidEvent("meter", which if asked.meter is not None else f"given; {which}")
    return asked.meter


def _refuse_other(asked: Asked, meter: str, *made: str | int) -> None:
    if made != (asked.decision_id, meter, asked.quantity, asked.reason):
        raise CorrectionConflict("another correction was made with this key; nothing was done")
