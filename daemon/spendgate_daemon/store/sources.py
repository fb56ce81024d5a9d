"""What the events of a sink are rows of, so that its positions mean something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.decisions import ON_EVENTS
from spendgate_daemon.store.schema import decisions, guardrail_events, usage_events

SourceName = Literal["usage", "decisions", "guardrail_events"]


class Source(msgspec.Struct, frozen=True):
    """A table, its column of ids, and which of its rows are events of the sink."""

    table: sa.Table
    id: sa.Column[str]
    wanted: sa.ColumnElement[bool]

    def between(self, after: int, upto: int | None = None) -> sa.ColumnElement[bool]:
        """Rows after one position and up to another (None: all that there are)."""
        ahead = sa.and_(self.wanted, self.table.c.position > after)
        return ahead if upto is None else sa.and_(ahead, self.table.c.position <= upto)


SOURCES: Final[Mapping[SourceName, Source]] = {
    "usage": Source(usage_events, usage_events.c.event_id, sa.true()),
    "decisions": Source(decisions, decisions.c.decision_id, ON_EVENTS),
    "guardrail_events": Source(guardrail_events, guardrail_events.c.id, sa.true()),
}

SINKS: Final[Mapping[str, SourceName]] = {
    "usagebox.usage": "usage",
    "usagebox.policy": "guardrail_events",
    "kafka.usage": "usage",
    "kafka.decisions": "decisions",
    "kafka.guardrail_events": "guardrail_events",
}
"""Every sink there is."""
