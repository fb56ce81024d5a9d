"""Guardrail events: changes of a customer's enforcement, as invoices and audits cite them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.page import Page, position_of
from spendgate_daemon.store.schema import guardrail_events


class GuardrailEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: stopped, throttled, resumed, suspended, threshold_crossed, overage_started, override_on, override_off,
    repair, delivery_discarded, duplicate, corrected."""

    id: str
    customer_id: str
    kind: str
    at_us: int
    message: str
    limit_id: str | None = None
    from_state: str | None = None
    to_state: str | None = None
    decision_id: str | None = None
    override_id: str | None = None
    position: int = 0


class GuardrailEvents:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: sa.Connection, events: Sequence[GuardrailEvent]) -> dict[str, int]:
        """Position of each, by id. Events that are there already stay as they are."""
        rows = [
            {name: getattr(event, name) for name in event.__struct_fields__ if name != "position"} for event in events
        ]
        if not rows:
            return {}
        self._database.in_order(connection, guardrail_events)
        self._database.upsert(connection, guardrail_events, rows, keys=["id"])
        positions: dict[str, int] = {}
        for start in range(0, len(rows), 500):
            ids = [row["id"] for row in rows[start : start + 500]]
            query = sa.select(guardrail_events.c.id, guardrail_events.c.position).where(guardrail_events.c.id.in_(ids))
            positions |= {row.id: row.position for row in connection.execute(query)}
        return positions

    def append(self, event: GuardrailEvent) -> None:
        """One event in a transaction of its own."""
        with self._database.writing() as connection:
            self.insert(connection, [event])

    def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        customer_id: str | None = None,
        kind: str | None = None,
    ) -> Page[GuardrailEvent]:
        """Newest first. Raises ValueError for a foreign cursor."""
        query = sa.select(guardrail_events).order_by(guardrail_events.c.position.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(guardrail_events.c.position < position_of(cursor))
        if customer_id is not None:
            query = query.where(guardrail_events.c.customer_id == customer_id)
        if kind is not None:
            query = query.where(guardrail_events.c.kind == kind)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        items = [_event(row) for row in rows[:limit]]
        return Page(items, str(items[-1].position) if len(rows) > limit else None)

    def after(self, position: int, limit: int) -> list[GuardrailEvent]:
        """In the order they were stored."""
        ahead = sa.select(guardrail_events).where(guardrail_events.c.position > position)
        return self._events(ahead.order_by(guardrail_events.c.position).limit(limit))

    def of_kind(self, kind: str, after: int, limit: int) -> list[GuardrailEvent]:
        """Of one kind, in the order they were stored."""
        ahead = sa.select(guardrail_events).where(guardrail_events.c.kind == kind, guardrail_events.c.position > after)
        return self._events(ahead.order_by(guardrail_events.c.position).limit(limit))

    def by_positions(self, positions: Sequence[int]) -> list[GuardrailEvent]:
        mine = sa.select(guardrail_events).where(guardrail_events.c.position.in_(positions))
        return self._events(mine.order_by(guardrail_events.c.position))

    def _events(self, query: sa.Select[Any]) -> list[GuardrailEvent]:
        with self._database.reading() as connection:
            return [_event(row) for row in connection.execute(query)]

    def last_stop_or_resume(self, customer_id: str) -> GuardrailEvent | None:
        """The customer's newest change from or to `stopped`."""
        columns = guardrail_events.c
        stops = sa.or_(columns.from_state == "stopped", columns.to_state == "stopped")
        changes = sa.select(guardrail_events).where(columns.customer_id == customer_id, stops)
        newest = self._events(changes.order_by(columns.position.desc()).limit(1))
        return newest[0] if newest else None

    def by_ids(self, ids: Sequence[str]) -> dict[str, GuardrailEvent]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(guardrail_events).where(guardrail_events.c.id.in_(ids))).all()
        return {row.id: _event(row) for row in rows}


def _event(row: Any) -> GuardrailEvent:
    return GuardrailEvent(**{name: getattr(row, name) for name in GuardrailEvent.__struct_fields__})
