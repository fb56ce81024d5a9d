"""What the books need from the store, each answer of one moment; and the lines as they were last compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.deliveries import AGAIN
from spendgate_daemon.store.guardrail_events import GuardrailEvent, GuardrailEvents
from spendgate_daemon.store.page import Page, position_of
from spendgate_daemon.store.schema import (
    books,
    cursors,
    customers,
    decisions,
    delivered_totals,
    deliveries,
    not_delivered,
    usage_events,
)
from spendgate_daemon.store.usage import HOUR_SECONDS

USAGE_SINK: Final = "usagebox.usage"
MAX_NUMBER: Final = 2**31 - 1
"""Of a line; its column has no room for more."""


class Period(msgspec.Struct, frozen=True):
    """What a line is about: meters of a customer, from and to in Unix seconds. `limit_id` None: no limit counts them as a
    whole."""

    customer_id: str
    meters: tuple[str, ...]
    unit: str
    start_seconds: int
    end_seconds: int
    limit_id: str | None = None


class Waiting(msgspec.Struct, frozen=True):
    """The store's book at one moment: all that is recorded, and of it what UsageBox hasn't confirmed."""

    recorded: int
    in_flight: int
    late: int
    dead: int
    owed: int = 0
    """Of all that isn't confirmed, what takes away: corrections, below 0."""

    @property
    def confirmed(self) -> int:
        return self.recorded - self.in_flight - self.late - self.dead


class Kept(msgspec.Struct, frozen=True):
    """A line as it was last compared; `line` is JSON."""

    line: str
    differs: bool
    drifts: bool
    compared_at_us: int


class Recorded(msgspec.Struct, frozen=True):
    """`units` decided by an instant, by the digest of the policy in force then; `cursor` is how far the partition's outbox
    was stored."""

    units: dict[str, int]
    cursor: str | None


class Books:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = GuardrailEvents(database)

    def recorded(self, period: Period, decided_by_us: int, cursor_name: str) -> Recorded:
        """Committed usage of a period, of what was decided by then."""
        query = (
            sa.select(decisions.c.policy_digest, sa.func.sum(usage_events.c.quantity))
            .join_from(usage_events, decisions, usage_events.c.decision_id == decisions.c.decision_id)
            .where(*_of(period), decisions.c.at_us <= decided_by_us)
            .group_by(decisions.c.policy_digest)
        )
        with self._database.moment() as connection:
            cursor = connection.execute(sa.select(cursors.c.value).where(cursors.c.name == cursor_name)).scalar()
            return Recorded({row[0]: int(row[1]) for row in connection.execute(query)}, cursor)

    def waiting(self, period: Period, now_us: int) -> Waiting:
        """All that is recorded of a period, and what of it UsageBox hasn't confirmed."""
        hour_us = HOUR_SECONDS * 1_000_000
        summed_up_us = (now_us - 60_000_000) // hour_us * hour_us
        total = sa.select(sa.func.coalesce(sa.func.sum(usage_events.c.quantity), 0)).where(*_of(period))
        late = sa.case((usage_events.c.at_us < summed_up_us, 1), else_=0)
        takes_away = sa.case((usage_events.c.quantity < 0, 1), else_=0)
        open_ = (
            sa.select(deliveries.c.state, late.label("late"), sa.func.sum(usage_events.c.quantity))
            .join_from(usage_events, deliveries, usage_events.c.position == deliveries.c.position)
            .where(*_of(period), deliveries.c.sink == USAGE_SINK, not_delivered)
            .group_by(deliveries.c.state, late, takes_away)
        )
        with self._database.moment() as connection:
            recorded = int(connection.execute(total).scalar_one())
            sums = {"in_flight": 0, "late": 0, "dead": 0, "owed": 0}
            for state, is_late, units in connection.execute(open_):
                name = ("late" if is_late else "in_flight") if state in ("pending", "attempted") else "dead"
                sums[name] += int(units)
                sums["owed"] += min(0, int(units))
        return Waiting(recorded, **sums)

    def meters(self, customer_id: str, start_seconds: int, end_seconds: int) -> set[str]:
        """Meters of which anything was recorded."""
        query = sa.select(usage_events.c.meter).where(
            usage_events.c.customer_id == customer_id,
            usage_events.c.at_us >= start_seconds * 1_000_000,
            usage_events.c.at_us < end_seconds * 1_000_000,
        )
        with self._database.reading() as connection:
            return set(connection.execute(query.distinct()).scalars())

    def delivered(self, period: Period, limit: int) -> list[tuple[int, str]]:
        """Position of what UsageBox has confirmed, and its id there: of the event, or of the correction that it got
        instead. The oldest first."""
        mine = sa.and_(deliveries.c.sink == USAGE_SINK, deliveries.c.position == usage_events.c.position)
        name = sa.func.coalesce(deliveries.c.correction_id, usage_events.c.event_id)
        query = sa.select(usage_events.c.position, name.label("name")).outerjoin_from(usage_events, deliveries, mine)
        confirmed = sa.or_(deliveries.c.state.is_(None), deliveries.c.state == "delivered")
        with self._database.reading() as connection:
            rows = connection.execute(query.where(*_of(period), confirmed).order_by(usage_events.c.at_us).limit(limit))
            return [(row.position, row.name) for row in rows]

    def send_again(self, positions: Sequence[int], event: GuardrailEvent) -> int:
        """Let what was delivered be sent once more, and tell of it; how many. UsageBox knows an event by its id."""
        with self._database.writing() as connection:
            self._events.insert(connection, [event])
            moved = 0
            for start in range(0, len(positions), 500):
                part = deliveries.c.position.in_(positions[start : start + 500])
                confirmed = deliveries.c.state == "delivered"
                update = deliveries.update().where(deliveries.c.sink == USAGE_SINK, part, confirmed)
                moved += connection.execute(
                    update.values(**AGAIN, correction_id=None, error="missing in UsageBox")
                ).rowcount
            fewer = delivered_totals.update().where(delivered_totals.c.sink == USAGE_SINK)
            connection.execute(fewer.values(number=delivered_totals.c.number - moved))
            return moved

    def save(self, customer_id: str, lines: Sequence[Kept], at_us: int) -> None:
        """Replace the lines of a customer, who may have none, as compared at that moment."""
        rows = [
            {"customer_id": customer_id, "number": number, **msgspec.structs.asdict(line)}
            for number, line in enumerate(lines)
        ]
        with self._database.writing() as connection:
            connection.execute(books.delete().where(books.c.customer_id == customer_id))
            if rows:
                connection.execute(books.insert(), rows)
            _end_turn(connection, customer_id, at_us)

    def end_turn(self, customer_id: str, at_us: int) -> None:
        """Let one who could not be compared come after the others, as if that had been done."""
        with self._database.writing() as connection:
            _end_turn(connection, customer_id, at_us)

    def page(
        self, *, limit: int, cursor: str | None = None, customer_id: str | None = None, differs: bool = False
    ) -> Page[str]:
        """Lines, by customer. Raises ValueError for a foreign cursor."""
        query = sa.select(books).order_by(books.c.customer_id, books.c.number).limit(limit + 1)
        if customer_id is not None:
            query = query.where(books.c.customer_id == customer_id)
        if differs:
            query = query.where(sa.text("differs"))
        if cursor is not None:
            number, _, after = cursor.partition(".")
            place = (after, position_of(number, MAX_NUMBER))
            query = query.where(sa.tuple_(books.c.customer_id, books.c.number) > place)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        shown = rows[:limit]
        following = f"{shown[-1].number}.{shown[-1].customer_id}" if len(rows) > limit else None
        return Page([row.line for row in shown], following)

    def counts(self) -> dict[str, int]:
        """Lines in all, with a difference, and with a drift."""
        query = sa.select(
            sa.func.count(),
            sa.func.count().filter(books.c.differs),
            sa.func.count().filter(books.c.drifts),
            sa.func.min(books.c.compared_at_us),
        )
        with self._database.reading() as connection:
            lines, differ, drift, oldest_us = connection.execute(query).one()
        return {"lines": lines, "differ": differ, "drift": drift, "oldest_compared_at_us": oldest_us or 0}

    def longest_uncompared(self, limit: int) -> list[str]:
        """Customers who had no turn yet, and then those whose last was longest ago."""
        query = (
            sa.select(customers.c.customer_id)
            .order_by(customers.c.compared_at_us, customers.c.customer_id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())


def _end_turn(connection: sa.Connection, customer_id: str, at_us: int) -> None:
    mine = customers.c.customer_id == customer_id
    connection.execute(customers.update().where(mine).values(compared_at_us=at_us))


def _of(period: Period) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        usage_events.c.customer_id == period.customer_id,
        usage_events.c.meter.in_(period.meters),
        usage_events.c.at_us >= period.start_seconds * 1_000_000,
        usage_events.c.at_us < period.end_seconds * 1_000_000,
    )
