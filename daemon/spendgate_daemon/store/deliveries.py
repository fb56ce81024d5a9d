"""What still has to reach a sink: `pending` → `attempted` → `delivered`, or `dead` with its cause, or `discarded` after that.

All ends are final: whoever comes late with another state changes nothing, and only `DeadLetters.retry` brings back the dead. A sink
that takes everything in order has a row here only for what left the order; the rest is told by its marks (`streams.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import delivered_totals, deliveries, not_delivered
from spendgate_daemon.store.sources import SINKS, SOURCES
from spendgate_daemon.store.streams import Streams, Waiting, add_delivered

ENDS: Final = ("dead", "discarded")
"""Ends that are not the wanted one. Their rows are in the index of what is not delivered."""

AGAIN: Final[dict[str, Any]] = {"state": "pending", "attempts": 0, "next_attempt_us": 0}
"""What lets one that has reached its end be tried again. When it was first tried stays: the sink may have it since then, and
have forgotten its id."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """`first_attempt_us` None: there was no attempt, or it was before this was noted."""

    sink: str
    position: int
    item_id: str
    state: str
    attempts: int
    created_at_us: int
    next_attempt_us: int = 0
    error: str | None = None
    first_attempt_us: int | None = None
    correction_id: str | None = None
    discarded_by: str | None = None
    discarded_at_us: int | None = None
    discard_reason: str | None = None


class ItemState(msgspec.Struct, frozen=True):
    """What became of one event at one sink. `attempts` None: they are not counted one by one. `correction_id`: what the
    sink got in its place."""

    sink: str
    item_id: str
    state: str
    attempts: int | None
    error: str | None
    correction_id: str | None = None


class SinkState(msgspec.Struct, frozen=True):
    """Counts per state; `oldest_pending_at_us` None: nothing waits; `error`: one of what is dead, or else of what waits."""

    sink: str
    pending: int
    attempted: int
    delivered: int
    dead: int
    discarded: int
    oldest_pending_at_us: int | None
    error: str | None


class Deliveries:
    def __init__(self, database: Database, streams: Streams) -> None:
        self._database = database
        self._streams = streams

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

    def first_of_others(self, sink: str, customer_ids: Collection[str], now_us: int) -> int | None:
        """Position of the oldest event that waits, was never tried, and is of none of these customers."""
        waiting = _waiting(sink, 1).where(
            deliveries.c.next_attempt_us <= now_us, deliveries.c.first_attempt_us.is_(None)
        )
        source = SOURCES[SINKS[sink]].table
        query = waiting.join(source, source.c.position == deliveries.c.position)
        with self._database.reading() as connection:
            found = connection.execute(query.where(source.c.customer_id.not_in(customer_ids))).first()
        return found.position if found is not None else None

    def mark(
        self,
        sink: str,
        positions: Sequence[int],
        state: str,
        *,
        next_attempt_us: int = 0,
        error: str | None = None,
        attempted_at_us: int | None = None,
        correction_suffix: str | None = None,
    ) -> None:
        """Move deliveries that wait to a state. `attempted_at_us` counts one more attempt; `correction_suffix`: the sink
        got a correction instead, with this behind the event's id."""
        values: dict[str, Any] = {"state": state, "next_attempt_us": next_attempt_us, "error": error}
        if attempted_at_us is not None:
            values["attempts"] = deliveries.c.attempts + 1
            values["first_attempt_us"] = sa.func.coalesce(deliveries.c.first_attempt_us, attempted_at_us)
        if correction_suffix is not None:
            values["correction_id"] = deliveries.c.item_id + correction_suffix
        moved = 0
        with self._database.writing() as connection:
            for start in range(0, len(positions), 500):
                mine = deliveries.c.position.in_(positions[start : start + 500])
                open_ = (deliveries.c.sink == sink, mine, not_delivered, deliveries.c.state.not_in(ENDS))
                moved += connection.execute(deliveries.update().where(*open_).values(**values)).rowcount
            if state == "delivered":
                add_delivered(self._database, connection, sink, moved)

    def of_item(self, item_ids: Sequence[str]) -> list[ItemState]:
        """What became of these events, sink by sink."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(deliveries).where(deliveries.c.item_id.in_(item_ids))).all()
            streamed = self._streams.of_item(connection, item_ids)
        own = [ItemState(*(getattr(row, name) for name in ItemState.__struct_fields__)) for row in rows]
        told = {(each.sink, each.item_id) for each in own}
        for stream, item_id, position in streamed:
            if (stream.sink, item_id) not in told:
                state = stream.state_at(position)
                own.append(ItemState(stream.sink, item_id, state, None, stream.error if state == "attempted" else None))
        return own

    def sinks(self) -> list[SinkState]:
        """Every sink that ever had work, by name."""
        waiting = deliveries.c.state.not_in(ENDS)
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
            streams = self._streams.waiting(connection)
        return [
            _sink_state(
                sink,
                delivered.get(sink, 0),
                {row.state: row for row in rows if row.sink == sink},
                streams.get(sink, Waiting(0, 0, None, None)),
            )
            for sink in sorted({row.sink for row in rows} | set(delivered) | set(streams))
        ]


def _waiting(sink: str, limit: int) -> sa.Select[Any]:
    mine = sa.select(deliveries).where(deliveries.c.sink == sink, not_delivered, deliveries.c.state.not_in(ENDS))
    return mine.order_by(deliveries.c.position).limit(limit)


def _sink_state(sink: str, delivered: int, rows: dict[str, Any], stream: Waiting) -> SinkState:
    number = {state: row.number for state, row in rows.items()}
    oldest = [row.oldest for row in rows.values() if row.oldest is not None]
    oldest += [stream.oldest_at_us] if stream.oldest_at_us is not None else []
    errors = [rows["dead"].error if "dead" in rows else None, stream.error]
    errors += [rows[state].error for state in ("attempted", "pending") if state in rows]
    return SinkState(
        sink=sink,
        pending=number.get("pending", 0) + stream.pending,
        attempted=number.get("attempted", 0) + stream.attempted,
        delivered=delivered,
        dead=number.get("dead", 0),
        discarded=number.get("discarded", 0),
        oldest_pending_at_us=min(oldest, default=None),
        error=next((error for error in errors if error), None),
    )


def _delivery(row: Any) -> Delivery:
    return Delivery(**{name: getattr(row, name) for name in Delivery.__struct_fields__})
