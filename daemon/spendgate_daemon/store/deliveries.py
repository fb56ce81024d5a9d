"""What still has to reach a sink: `pending` → `attempted` → `delivered`, or `dead` with its cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import deliveries


class Delivery(msgspec.Struct, frozen=True):
    sink: str
    position: int
    item_id: str
    state: str
    attempts: int
    created_at_us: int
    next_attempt_us: int
    error: str | None


class SinkState(msgspec.Struct, frozen=True):
    """Counts per state; `oldest_pending_at_us` None: nothing waits; `error`: the last one of what waits or is dead."""

    sink: str
    pending: int
    attempted: int
    delivered: int
    dead: int
    oldest_pending_at_us: int | None
    error: str | None


class Deliveries:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
        """New work, `pending` at once; what is there already stays."""
        full = [{"state": "pending", "attempts": 0, "next_attempt_us": 0, "error": None} | row for row in rows]
        if full:
            self._database.upsert(connection, deliveries, full, keys=["sink", "position"])

    def due(self, sink: str, now_us: int, limit: int) -> list[Delivery]:
        """The oldest that wait and whose time has come."""
        query = (
            sa.select(deliveries)
            .where(deliveries.c.sink == sink, deliveries.c.state.in_(["pending", "attempted"]))
            .where(deliveries.c.next_attempt_us <= now_us)
            .order_by(deliveries.c.position)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_delivery(row) for row in connection.execute(query)]

    def mark(
        self,
        sink: str,
        positions: Sequence[int],
        state: str,
        *,
        next_attempt_us: int = 0,
        error: str | None = None,
        attempted: bool = False,
    ) -> None:
        """Move deliveries to a state. `attempted` counts one more attempt."""
        values: dict[str, Any] = {"state": state, "next_attempt_us": next_attempt_us, "error": error}
        if attempted:
            values["attempts"] = deliveries.c.attempts + 1
        with self._database.writing() as connection:
            for start in range(0, len(positions), 500):
                part = positions[start : start + 500]
                connection.execute(
                    deliveries.update()
                    .where(deliveries.c.sink == sink, deliveries.c.position.in_(part))
                    .values(**values)
                )

    def of_item(self, item_ids: Sequence[str]) -> list[Delivery]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(deliveries).where(deliveries.c.item_id.in_(item_ids)))
            return [_delivery(row) for row in rows]

    def sinks(self) -> list[SinkState]:
        """Every sink that ever had work, by name."""
        waiting = deliveries.c.state.in_(["pending", "attempted"])
        counts = sa.select(
            deliveries.c.sink,
            deliveries.c.state,
            sa.func.count().label("number"),
            sa.func.min(sa.case((waiting, deliveries.c.created_at_us))).label("oldest"),
            sa.func.max(deliveries.c.error).label("error"),
        ).group_by(deliveries.c.sink, deliveries.c.state)
        with self._database.reading() as connection:
            rows = connection.execute(counts).all()
        states = []
        for sink in sorted({row.sink for row in rows}):
            mine = {row.state: row for row in rows if row.sink == sink}
            oldest = [row.oldest for row in mine.values() if row.oldest is not None]
            errors = [mine[state].error for state in ("dead", "attempted", "pending") if state in mine]
            states.append(
                SinkState(
                    sink=sink,
                    oldest_pending_at_us=min(oldest) if oldest else None,
                    error=next((error for error in errors if error), None),
                    **{s: mine[s].number if s in mine else 0 for s in ("pending", "attempted", "delivered", "dead")},
                )
            )
        return states


def _delivery(row: Any) -> Delivery:
    return Delivery(*(getattr(row, name) for name in Delivery.__struct_fields__))
