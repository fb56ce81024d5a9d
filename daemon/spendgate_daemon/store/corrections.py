"""Corrections, with who made them and why; the usage that follows from them is among the usage events."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import corrections

MAX_ID: Final = 64


class StoredCorrection(msgspec.Struct, frozen=True, kw_only=True):
    """`decision_id` is the correction's own record, `corrects` the decision that is put right; the rest is as in
    `spendgate.correction.Correction`, in the `unit` of the meter."""

    decision_id: str
    correction_id: str
    corrects: str
    usage_id: str
    customer_id: str
    meter: str
    unit: str
    before: int
    after: int
    actor: str
    reason: str
    at_us: int


class Corrections:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: sa.Connection, made: Sequence[StoredCorrection]) -> None:
        """Those that are there already (by decision id) stay as they are."""
        rows = [msgspec.structs.asdict(each) | {"correction_id": kept_id(each.correction_id)} for each in made]
        self._database.upsert(connection, corrections, rows, keys=["decision_id"])

    def of(self, decision_id: str) -> list[StoredCorrection]:
        """Of one decision, the oldest first."""
        return self._found(corrections.c.corrects == decision_id)

    def get(self, correction_id: str) -> StoredCorrection | None:
        return next(iter(self._found(corrections.c.correction_id == kept_id(correction_id))), None)

    def made_by(self, decision_id: str) -> StoredCorrection | None:
        """The correction whose own record this is."""
        return next(iter(self._found(corrections.c.decision_id == decision_id)), None)

    def _found(self, condition: sa.ColumnElement[bool]) -> list[StoredCorrection]:
        query = sa.select(corrections).where(condition).order_by(corrections.c.position)
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.execute(query)]


def kept_id(correction_id: str) -> str:
    """The id itself, or the digest of one that is longer than its column: that of a take-back has its meter's name in it,
    and records of them may wait in outboxes."""
    if len(correction_id) <= MAX_ID:
        return correction_id
    return f"cor_{hashlib.sha256(correction_id.encode()).hexdigest()[:32]}"


def _stored(row: Any) -> StoredCorrection:
    return StoredCorrection(**{name: getattr(row, name) for name in StoredCorrection.__struct_fields__})
