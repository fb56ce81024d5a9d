"""Committed usage, its rollups, and what UsageBox says of the same customers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import corrections, external_usage, rollups, usage_events, usagebox_totals

MINUTE_SECONDS = 60
HOUR_SECONDS = 3600
MAX_POINTS = 2000

_EVENTS = sa.select(
    usage_events, corrections.c.usage_id.label("corrects"), corrections.c.reason.label("correction_reason")
).join_from(usage_events, corrections, corrections.c.decision_id == usage_events.c.decision_id, isouter=True)


class UsageEventRow(msgspec.Struct, frozen=True):
    """One meter of an allowed decision, as it is sent to UsageBox. `corrects` is the usage event that this one puts right
    by its quantity, which may be below 0; None for what was used."""

    position: int
    event_id: str
    decision_id: str
    customer_id: str
    meter: str
    quantity: int
    unit: str
    model: str | None
    at_us: int
    corrects: str | None = None
    correction_reason: str | None = None


class Point(msgspec.Struct, frozen=True):
    """One step of a series: committed here, recorded outside the gate, and decisions denied."""

    start_seconds: int
    used: int
    external: int
    denied: int


class Total(msgspec.Struct, frozen=True):
    """What UsageBox recorded for one meter in the period of its reading: our own source, and all others."""

    customer_id: str
    meter: str
    period_start_seconds: int
    own: int
    external: int
    read_at_us: int


class Usage:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> list[tuple[int, str, int]]:
        """Insert usage events; returns (position, event id, at_us) of those that are new."""
        if not rows:
            return []
        self._database.in_order(connection, usage_events)
        self._database.upsert(connection, usage_events, rows, keys=["event_id"])
        found: list[tuple[int, str, int]] = []
        ids = [row["event_id"] for row in rows]
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            query = sa.select(usage_events.c.position, usage_events.c.event_id, usage_events.c.at_us)
            found += [tuple(row) for row in connection.execute(query.where(usage_events.c.event_id.in_(part)))]
        return found

    def by_positions(self, positions: Sequence[int]) -> list[UsageEventRow]:
        return self._events(_EVENTS.where(usage_events.c.position.in_(positions)).order_by(usage_events.c.position))

    def after(self, position: int, limit: int) -> list[UsageEventRow]:
        """In the order they were stored."""
        ahead = _EVENTS.where(usage_events.c.position > position)
        return self._events(ahead.order_by(usage_events.c.position).limit(limit))

    def newest_position(self) -> int:
        """Of all usage; 0 when there is none."""
        with self._database.reading() as connection:
            return connection.execute(sa.select(sa.func.max(usage_events.c.position))).scalar() or 0

    def _events(self, query: sa.Select[Any]) -> list[UsageEventRow]:
        with self._database.reading() as connection:
            return [
                UsageEventRow(*(getattr(row, name) for name in UsageEventRow.__struct_fields__))
                for row in connection.execute(query)
            ]

    def add_rollups(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Add to the buckets. The caller makes sure that no decision is added twice."""
        if rows:
            counted = ("units", "allowed", "throttled", "stopped")
            self._database.upsert(
                connection,
                rollups,
                rows,
                keys=["customer_id", "meter", "width_seconds", "start_seconds"],
                update={name: rollups.c[name] + sa.literal_column(f"excluded.{name}") for name in counted},
            )

    def total(self, customer_id: str, meter: str, from_us: int, to_us: int) -> int:
        """Sum of committed usage, exactly: whole hours from the rollups, and the events of the edges."""
        hour_us = HOUR_SECONDS * 1_000_000
        first_us, last_us = -(-from_us // hour_us) * hour_us, to_us // hour_us * hour_us
        if first_us >= last_us:
            first_us = last_us = to_us
        at_us = usage_events.c.at_us
        edges = sa.or_(at_us.between(from_us, first_us - 1), at_us.between(last_us, to_us - 1))
        counted = sa.select(sa.func.coalesce(sa.func.sum(usage_events.c.quantity), 0)).where(
            usage_events.c.customer_id == customer_id, usage_events.c.meter == meter, edges
        )
        whole = sa.select(sa.func.coalesce(sa.func.sum(rollups.c.units), 0)).where(
            rollups.c.customer_id == customer_id,
            rollups.c.meter == meter,
            rollups.c.width_seconds == HOUR_SECONDS,
            rollups.c.start_seconds.between(first_us // 1_000_000, last_us // 1_000_000 - 1),
        )
        with self._database.reading() as connection:  # one statement, one moment
            both = sa.select(counted.scalar_subquery(), whole.scalar_subquery())
            return sum(int(part) for part in connection.execute(both).one())

    def burn(self, customer_ids: Sequence[str], from_seconds: int) -> dict[str, dict[str, int]]:
        """Units per customer and meter since a minute, from the rollups of minutes."""
        query = (
            sa.select(rollups.c.customer_id, rollups.c.meter, sa.func.sum(rollups.c.units))
            .where(rollups.c.customer_id.in_(customer_ids), rollups.c.width_seconds == MINUTE_SECONDS)
            .where(rollups.c.start_seconds >= from_seconds)
            .group_by(rollups.c.customer_id, rollups.c.meter)
        )
        burned: dict[str, dict[str, int]] = {}
        with self._database.reading() as connection:
            for customer_id, meter, units in connection.execute(query):
                burned.setdefault(customer_id, {})[meter] = int(units)
        return burned

    def series(
        self, customer_id: str, meter: str, from_seconds: int, to_seconds: int, step_seconds: int
    ) -> list[Point]:
        """Buckets that have something in them, in order, the first one whole; the newest MAX_POINTS if there are more.
        External usage is known by the hour, so steps shorter than that show it at the hour's first step."""
        from_seconds -= from_seconds % step_seconds
        width = MINUTE_SECONDS if step_seconds < HOUR_SECONDS else HOUR_SECONDS
        points: dict[int, list[int]] = {}
        own = sa.select(
            rollups.c.start_seconds, rollups.c.units, (rollups.c.throttled + rollups.c.stopped).label("denied")
        ).where(
            rollups.c.customer_id == customer_id,
            rollups.c.meter == meter,
            rollups.c.width_seconds == width,
            rollups.c.start_seconds.between(from_seconds, to_seconds - 1),
        )
        outside = sa.select(external_usage.c.hour_start_seconds, external_usage.c.quantity).where(
            external_usage.c.customer_id == customer_id,
            external_usage.c.meter == meter,
            external_usage.c.hour_start_seconds.between(from_seconds, to_seconds - 1),
        )
        with self._database.reading() as connection:
            for start, units, denied in connection.execute(own):
                point = points.setdefault(start - start % step_seconds, [0, 0, 0])
                point[0] += units
                point[2] += denied
            for start, quantity in connection.execute(outside):
                points.setdefault(start - start % step_seconds, [0, 0, 0])[1] += quantity
        return [Point(start, *points[start]) for start in sorted(points)][-MAX_POINTS:]

    def save_external(self, rows: Sequence[tuple[str, str, int, int]]) -> None:
        """(customer, meter, hour start, quantity): what UsageBox has from other sources, hour by hour."""
        columns = ("customer_id", "meter", "hour_start_seconds", "quantity")
        values = [dict(zip(columns, row, strict=True)) for row in rows]
        if values:
            with self._database.writing() as connection:
                self._database.upsert(
                    connection,
                    external_usage,
                    values,
                    keys=["customer_id", "meter", "hour_start_seconds"],
                    update=["quantity"],
                )

    def save_totals(self, totals: Sequence[Total]) -> None:
        """The newest reading per customer and meter."""
        rows = [{name: getattr(total, name) for name in total.__struct_fields__} for total in totals]
        if rows:
            taken = ["period_start_seconds", "own", "external", "read_at_us"]
            with self._database.writing() as connection:
                self._database.upsert(connection, usagebox_totals, rows, keys=["customer_id", "meter"], update=taken)

    def totals(self, customer_id: str) -> list[Total]:
        query = sa.select(usagebox_totals).where(usagebox_totals.c.customer_id == customer_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(usagebox_totals.c.meter)).all()
        return [Total(*(getattr(row, name) for name in Total.__struct_fields__)) for row in rows]
