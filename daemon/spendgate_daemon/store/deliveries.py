"""What still has to reach a sink: `pending` → `attempted` → `delivered`, or `dead` with its cause.

Both ends are final: whoever comes late with another state changes nothing, and only `revive` brings back the dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import delivered_totals, deliveries, not_delivered


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
    """Counts per state; `oldest_pending_at_us` None: nothing waits; `error`: one of what is dead, or else of what waits."""

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
        query = _waiting(sink, limit).where(deliveries.c.next_attempt_us <= now_us)
        with self._database.reading() as connection:
            return [_delivery(row) for row in connection.execute(query)]

    def waiting(self, sink: str, limit: int) -> list[Delivery]:
        """The oldest that wait, whether or not their time has come."""
        with self._database.reading() as connection:
            return [_delivery(row) for row in connection.execute(_waiting(sink, limit))]

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
        """Move deliveries that wait to a state. `attempted` counts one more attempt."""
        values: dict[str, Any] = {"state": state, "next_attempt_us": next_attempt_us, "error": error}
        if attempted:
            values["attempts"] = deliveries.c.attempts + 1
        moved = 0
        with self._database.writing() as connection:
            for start in range(0, len(positions), 500):
                mine = deliveries.c.position.in_(positions[start : start + 500])
                open_ = (deliveries.c.sink == sink, mine, not_delivered, deliveries.c.state != "dead")
                update = deliveries.update().where(*open_)
                moved += connection.execute(update.values(**values)).rowcount
            if state == "delivered" and moved:
                total = delivered_totals.c.number + sa.literal_column("excluded.number")
                row = {"sink": sink, "number": moved}
                self._database.upsert(connection, delivered_totals, [row], keys=["sink"], update={"number": total})

    def revive(self, sink: str) -> int:
        """Let the dead of a sink be tried again from the start; how many there were."""
        with self._database.writing() as connection:
            dead = deliveries.update().where(deliveries.c.sink == sink, deliveries.c.state == "dead", not_delivered)
            return connection.execute(dead.values(state="pending", attempts=0, next_attempt_us=0)).rowcount

    def of_item(self, item_ids: Sequence[str]) -> list[Delivery]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(deliveries).where(deliveries.c.item_id.in_(item_ids)))
            return [_delivery(row) for row in rows]

    def sinks(self) -> list[SinkState]:
        """Every sink that ever had work, by name."""
        waiting = deliveries.c.state != "dead"
        counts = (
            sa.select(
                deliveries.c.sink,
                deliveries.c.state,
                sa.func.count().label("number"),
                sa.func.min(sa.case((waiting, deliveries.c.created_at_us))).label("oldest"),
                sa.func.max(deliveries.c.error).label("error"),
            )
            .where(not_delivered)
            .group_by(deliveries.c.sink, deliveries.c.state)
        )
        with self._database.reading() as connection:
            rows = connection.execute(counts).all()
            delivered = {row.sink: row.number for row in connection.execute(sa.select(delivered_totals))}
        return [
            _sink_state(sink, delivered.get(sink, 0), {row.state: row for row in rows if row.sink == sink})
            for sink in sorted({row.sink for row in rows} | set(delivered))
        ]


def _waiting(sink: str, limit: int) -> sa.Select[Any]:
    mine = sa.select(deliveries).where(deliveries.c.sink == sink, not_delivered, deliveries.c.state != "dead")
    return mine.order_by(deliveries.c.position).limit(limit)


def _sink_state(sink: str, delivered: int, rows: dict[str, Any]) -> SinkState:
    oldest = [row.oldest for row in rows.values() if row.oldest is not None]
    errors = [rows[state].error for state in ("dead", "attempted", "pending") if state in rows]
    return SinkState(
        sink=sink,
        delivered=delivered,
        oldest_pending_at_us=min(oldest, default=None),
        error=next((error for error in errors if error), None),
        **{state: rows[state].number if state in rows else 0 for state in ("pending", "attempted", "dead")},
    )


def _delivery(row: Any) -> Delivery:
    return Delivery(*(getattr(row, name) for name in Delivery.__struct_fields__))
