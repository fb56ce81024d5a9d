"""What a sink refused for good: looked at, tried again, or discarded with a reason. A discarded one stays to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.deliveries import AGAIN
from spendgate_daemon.store.guardrail_events import GuardrailEvent, GuardrailEvents
from spendgate_daemon.store.page import Page
from spendgate_daemon.store.schema import deliveries, not_taken
from spendgate_daemon.store.sources import SINKS, SOURCES

_DEAD = sa.and_(not_taken, deliveries.c.state == "dead")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """`state`: dead or discarded. `at_us` is when the event happened, `error` why the sink does not have it."""

    sink: str
    position: int
    item_id: str
    state: str
    attempts: int
    at_us: int
    error: str | None
    customer_id: str
    decision_id: str | None
    discarded_by: str | None
    discarded_at_us: int | None
    discard_reason: str | None


class DeadLetters:
    def __init__(self, database: Database, events: GuardrailEvents) -> None:
        self._database = database
        self._events = events

    def page(self, sink: str, *, limit: int, before: int | None = None, state: str | None = None) -> Page[DeadLetter]:
        """Of one sink, the newest events first."""
        query = _letters(sink).order_by(deliveries.c.position.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(deliveries.c.position < before)
        if state is not None:
            query = query.where(deliveries.c.state == state)
        with self._database.reading() as connection:
            letters = [DeadLetter(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001
        return Page(letters[:limit], str(letters[limit - 1].position) if len(letters) > limit else None)

    def get(self, sink: str, position: int) -> DeadLetter | None:
        with self._database.reading() as connection:
            row = connection.execute(_letters(sink).where(deliveries.c.position == position)).first()
        return DeadLetter(**row._mapping) if row is not None else None  # noqa: SLF001

    def retry(self, sink: str, positions: Sequence[int] | None = None) -> int:
        """Let those that are dead be tried again from the start (None: all of the sink); how many there were."""
        chosen = deliveries.update().where(_DEAD, deliveries.c.sink == sink)
        if positions is not None:
            chosen = chosen.where(deliveries.c.position.in_(positions))
        with self._database.writing() as connection:
            return connection.execute(chosen.values(**AGAIN)).rowcount

    def discard(self, letter: DeadLetter, by: str, reason: str, at_us: int) -> bool:
        """The sink will never get it, which a guardrail event tells; False when it is not dead any more."""
        event = GuardrailEvent(
            id=f"discard.{letter.sink}.{letter.position}",
            customer_id=letter.customer_id,
            kind="delivery_discarded",
            at_us=at_us,
            decision_id=letter.decision_id,
            message=f"{letter.sink} never gets {letter.item_id}: {reason} (discarded by {by})",
        )
        told = {"discarded_by": by, "discarded_at_us": at_us, "discard_reason": reason}
        with self._database.writing() as connection:
            mine = deliveries.update().where(_DEAD, deliveries.c.sink == letter.sink)
            done = mine.where(deliveries.c.position == letter.position).values(state="discarded", **told)
            if not connection.execute(done).rowcount:
                return False
            self._events.insert(connection, [event])
            return True


def _letters(sink: str) -> sa.Select[Any]:
    """Of one sink, with what its events say of themselves."""
    source = SOURCES[SINKS[sink]].table
    columns = [
        deliveries.c[name]
        for name in DeadLetter.__struct_fields__
        if name not in ("at_us", "customer_id", "decision_id")
    ]
    return (
        sa.select(*columns, deliveries.c.created_at_us.label("at_us"), source.c.customer_id, source.c.decision_id)
        .join(source, source.c.position == deliveries.c.position)
        .where(deliveries.c.sink == sink, not_taken)
    )
