"""Decisions as stored: their inputs, and the columns that lists filter by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.page import Page, position_of
from spendgate_daemon.store.schema import debiting, decisions, finishing, mismatched, not_allow, not_allowed, reserving

ON_EVENTS: Final = decisions.c.kind.not_in(("standing", "repair", "restored"))
"""Decisions on events, counted denials and ends of reservations: what people mean by decisions."""

_ENDS: Final = ("commit", "release", "expire")
_REPAIR: Final = sa.and_(not_allowed, decisions.c.reason == "repaired")


class StoredDecision(msgspec.Struct, frozen=True, kw_only=True):
    """`verified` None: the verifier has not come by; False: the definition disagrees with the script. `count` is
    above 1 only for `kind` `denials`."""

    decision_id: str
    kind: str
    customer_id: str
    event_id: str
    at_us: int
    mode: str
    outcome: str
    reason: str
    limit_id: str
    quantities: dict[str, int]
    count: int
    policy_digest: str
    record: bytes
    verified: bool | None = None
    position: int = 0


class Decisions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Rows that are there already (by decision id) stay as they are."""
        if rows:
            self._database.in_order(connection, decisions)
            self._database.upsert(connection, decisions, rows, keys=["decision_id"])

    def known(self, connection: sa.Connection, decision_ids: Sequence[str]) -> set[str]:
        """Which of these are stored."""
        found: set[str] = set()
        for start in range(0, len(decision_ids), 500):
            part = decision_ids[start : start + 500]
            query = sa.select(decisions.c.decision_id).where(decisions.c.decision_id.in_(part))
            found |= set(connection.execute(query).scalars())
        return found

    def debited_before(self, connection: sa.Connection, decision_ids: Sequence[str]) -> dict[str, str]:
        """Which of these, which are stored, debit an event that was debited before; by the first that did."""
        earlier = sa.alias(decisions, "earlier")
        # A subquery for each, and no plain minimum: as a join, or ordered by position, PostgreSQL reads far too much of a
        # table that it has no statistics of.
        first = (
            sa.select(sa.func.min(earlier.c.position + 0))
            .where(
                sa.text(f"earlier.{debiting.text.replace('AND mode', 'AND earlier.mode')}"),
                earlier.c.customer_id == decisions.c.customer_id,
                earlier.c.event_id == decisions.c.event_id,
                earlier.c.position < decisions.c.position,
                earlier.c.quantities != "{}",
            )
            .scalar_subquery()
        )
        query = sa.select(decisions.c.decision_id, first)
        firsts: dict[str, int] = {}
        for start in range(0, len(decision_ids), 500):
            mine = decisions.c.decision_id.in_(decision_ids[start : start + 500])
            firsts |= {name: at for name, at in connection.execute(query.where(mine)) if at is not None}
        if not firsts:
            return {}
        named = sa.select(decisions.c.position, decisions.c.decision_id).where(
            decisions.c.position.in_(set(firsts.values()))
        )
        names = {row.position: row.decision_id for row in connection.execute(named)}
        return {decision_id: names[at] for decision_id, at in firsts.items()}

    def get(self, decision_id: str) -> StoredDecision | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(decisions).where(decisions.c.decision_id == decision_id)).first()
        return _stored(row) if row is not None else None

    def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        customer_id: str | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        from_us: int | None = None,
        to_us: int | None = None,
        repairs: bool = False,
    ) -> Page[StoredDecision]:
        """Newest first: decisions on events, counted denials, and ends of reservations; or repairs. Raises ValueError for
        a foreign cursor."""
        query = sa.select(decisions).where(ON_EVENTS)
        if repairs:
            query = sa.select(decisions).where(_REPAIR)
        if cursor is not None:
            query = query.where(_before(position_of(cursor)))
        if outcome not in (None, "allow"):
            query = query.where(not_allow)
        if reason not in (None, "allowed"):
            query = query.where(not_allowed)
        for column, value in (("customer_id", customer_id), ("outcome", outcome), ("reason", reason)):
            if value is not None:
                query = query.where(decisions.c[column] == value)
        if from_us is not None:
            query = query.where(decisions.c.at_us >= from_us)
        if to_us is not None:
            query = query.where(decisions.c.at_us < to_us)
        query = query.order_by(decisions.c.at_us.desc(), decisions.c.position.desc()).limit(limit + 1)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        items = [_stored(row) for row in rows[:limit]]
        return Page(items, str(items[-1].position) if len(rows) > limit else None)

    def end_of(self, reserved: StoredDecision) -> StoredDecision | None:
        """How the reservation that this decision gave ended; None while it is open."""
        ended = _ends(decisions.c.customer_id == reserved.customer_id, decisions.c.event_id == reserved.event_id)
        query = sa.select(decisions).where(ended, decisions.c.position > reserved.position)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(decisions.c.position).limit(1)).first()
        return _stored(row) if row is not None else None

    def unended(self, from_us: int, to_us: int, limit: int, *, customer_id: str | None = None) -> list[StoredDecision]:
        """Decisions that reserved within the time and whose reservation has no end, the oldest first."""
        later = sa.alias(decisions, "later")
        ended = sa.exists().where(
            sa.text("later.kind = 'finish'"),
            later.c.mode.in_(_ENDS),
            later.c.customer_id == decisions.c.customer_id,
            later.c.event_id == decisions.c.event_id,
            later.c.position > decisions.c.position,
        )
        query = (
            sa.select(decisions)
            .where(reserving, decisions.c.at_us >= from_us, decisions.c.at_us < to_us, ~ended)
            .where(decisions.c.kind == "decision", decisions.c.outcome == "allow")
            .order_by(decisions.c.at_us, decisions.c.position)
            .limit(limit)
        )
        if customer_id is not None:
            query = query.where(decisions.c.customer_id == customer_id)
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def last_extension(self, reserved: StoredDecision) -> StoredDecision | None:
        """The last time that the deadline of this decision's reservation was moved."""
        same = (decisions.c.customer_id == reserved.customer_id, decisions.c.event_id == reserved.event_id)
        query = sa.select(decisions).where(finishing, decisions.c.mode == "extend", *same)
        query = query.where(decisions.c.position > reserved.position).order_by(decisions.c.position.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return _stored(row) if row is not None else None

    def newest_first(self, customer_id: str, before: StoredDecision | None, limit: int) -> list[StoredDecision]:
        """Records of every kind of a customer, from the newest on, or on from the one before."""
        query = sa.select(decisions).where(decisions.c.customer_id == customer_id)
        if before is not None:
            query = query.where(sa.tuple_(decisions.c.at_us, decisions.c.position) < (before.at_us, before.position))
        query = query.order_by(decisions.c.at_us.desc(), decisions.c.position.desc()).limit(limit)
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def newest_by_policy(self, customer_id: str) -> list[StoredDecision]:
        """The newest record of a customer under each policy that it ever had, the newest first."""
        newest = (
            sa.select(sa.func.max(decisions.c.position))
            .where(decisions.c.customer_id == customer_id)
            .group_by(decisions.c.policy_digest)
        )
        query = sa.select(decisions).where(decisions.c.position.in_(newest)).order_by(decisions.c.position.desc())
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def customers_after(self, partition: int, decision_id: str) -> dict[str, list[str]]:
        """Customers of a partition with the ids of their decisions that were stored after this one; all of them where it
        isn't stored."""
        prefix = f"d{partition:03d}-"
        place = sa.select(decisions.c.position).where(decisions.c.decision_id == decision_id).scalar_subquery()
        query = sa.select(decisions.c.customer_id, decisions.c.decision_id).where(
            decisions.c.decision_id.between(prefix, prefix + "a"), decisions.c.position > sa.func.coalesce(place, 0)
        )
        found: dict[str, list[str]] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query):
                found.setdefault(row.customer_id, []).append(row.decision_id)
        return found

    def customers(self) -> list[str]:
        """Everybody anything was ever decided for."""
        with self._database.reading() as connection:
            return list(connection.execute(sa.select(decisions.c.customer_id).distinct()).scalars())

    def previous_repair(self, repair: StoredDecision) -> StoredDecision | None:
        """The customer's repair before this one."""
        query = sa.select(decisions).where(
            _REPAIR, decisions.c.customer_id == repair.customer_id, decisions.c.position < repair.position
        )
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(decisions.c.position.desc()).limit(1)).first()
        return _stored(row) if row is not None else None

    def of_customer(
        self,
        customer_id: str,
        from_us: int,
        to_position: int,
        *conditions: sa.ColumnElement[bool] | sa.TextClause,
        limit: int,
    ) -> list[StoredDecision]:
        """The newest `limit` records of a customer from an instant on and before a position, oldest first."""
        query = sa.select(decisions).where(
            decisions.c.customer_id == customer_id,
            decisions.c.at_us >= from_us,
            decisions.c.position < to_position,
            *conditions,
        )
        query = query.order_by(decisions.c.at_us.desc(), decisions.c.position.desc()).limit(limit)
        with self._database.reading() as connection:
            return sorted(map(_stored, connection.execute(query)), key=lambda each: each.position)

    def after(self, position: int, limit: int, *conditions: sa.ColumnElement[bool]) -> list[StoredDecision]:
        """Records that meet the conditions, in the order they were stored."""
        ahead = sa.select(decisions).where(decisions.c.position > position, *conditions)
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.execute(ahead.order_by(decisions.c.position).limit(limit))]

    def by_positions(self, positions: Sequence[int]) -> list[StoredDecision]:
        query = sa.select(decisions).where(decisions.c.position.in_(positions)).order_by(decisions.c.position)
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def records(self, decision_ids: Sequence[str]) -> dict[str, bytes]:
        """By decision id, the encoded records."""
        query = sa.select(decisions.c.decision_id, decisions.c.record)
        with self._database.reading() as connection:
            rows = connection.execute(query.where(decisions.c.decision_id.in_(decision_ids)))
            return {row.decision_id: bytes(row.record) for row in rows}

    def mark_verified(self, connection: sa.Connection, positions: Sequence[int], *, verified: bool) -> None:
        for start in range(0, len(positions), 500):
            part = positions[start : start + 500]
            connection.execute(decisions.update().where(decisions.c.position.in_(part)).values(verified=verified))

    def outcomes_since(self, at_us: int) -> dict[str, int]:
        """Decisions per outcome since an instant, counted denials included."""
        query = (
            sa.select(decisions.c.outcome, sa.func.sum(decisions.c["count"]))
            .where(decisions.c.at_us >= at_us, decisions.c.kind.in_(("decision", "denials")))
            .group_by(decisions.c.outcome)
        )
        with self._database.reading() as connection:
            counted = {row[0]: int(row[1]) for row in connection.execute(query)}
        return {"allow": 0, "throttle": 0, "stop": 0} | counted

    def mismatches(self) -> int:
        with self._database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(decisions).where(mismatched)
            return connection.execute(query).scalar_one()


def _ends(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Records that end a reservation, by its customer and event."""
    return sa.and_(finishing, decisions.c.mode.in_(_ENDS), *conditions)


def _before(position: int) -> sa.ColumnElement[bool]:
    """Further down the list than this row, which is ordered by time and, for the same instant, by position."""
    found = sa.select(decisions.c.at_us).where(decisions.c.position <= position)
    at_us = found.order_by(decisions.c.position.desc()).limit(1).scalar_subquery()
    return sa.tuple_(decisions.c.at_us, decisions.c.position) < sa.tuple_(at_us, position)


def _stored(row: Any) -> StoredDecision:
    fields = {name: getattr(row, name) for name in StoredDecision.__struct_fields__ if name != "count"}
    fields["quantities"] = json.loads(row.quantities)
    fields["record"] = bytes(row.record)
    return StoredDecision(**fields, count=row._mapping["count"])  # noqa: SLF001  (`count` is a method of a row)
