"""What there is to send of each kind: the next ones in order, and those at given positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from spendgate_daemon.relays.kafka.messages import (
    Message,
    decision_message,
    guardrail_event_message,
    traceparent_of,
    usage_message,
)
from spendgate_daemon.store import Store
from spendgate_daemon.store.decisions import ON_EVENTS
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.store.sources import SourceName
from spendgate_daemon.store.usage import UsageEventRow


class Feed(Protocol):
    def after(self, position: int, limit: int) -> list[Message]: ...

    def at(self, positions: Sequence[int]) -> list[Message]: ...


class UsageFeed:
    def __init__(self, store: Store) -> None:
        self._store = store

    def after(self, position: int, limit: int) -> list[Message]:
        return self._messages(self._store.usage.after(position, limit))

    def at(self, positions: Sequence[int]) -> list[Message]:
        return self._messages(self._store.usage.by_positions(positions))

    def _messages(self, rows: Sequence[UsageEventRow]) -> list[Message]:
        records = self._store.decisions.records([row.decision_id for row in rows]) if rows else {}
        return [usage_message(row, traceparent_of(records.get(row.decision_id))) for row in rows]


class DecisionFeed:
    def __init__(self, store: Store) -> None:
        self._store = store

    def after(self, position: int, limit: int) -> list[Message]:
        return [decision_message(row) for row in self._store.decisions.after(position, limit, ON_EVENTS)]

    def at(self, positions: Sequence[int]) -> list[Message]:
        return [decision_message(row) for row in self._store.decisions.by_positions(positions)]


class GuardrailEventFeed:
    def __init__(self, store: Store) -> None:
        self._store = store

    def after(self, position: int, limit: int) -> list[Message]:
        return self._messages(self._store.guardrail_events.after(position, limit))

    def at(self, positions: Sequence[int]) -> list[Message]:
        return self._messages(self._store.guardrail_events.by_positions(positions))

    def _messages(self, events: Sequence[GuardrailEvent]) -> list[Message]:
        cited = [event.decision_id for event in events if event.decision_id is not None]
        records = self._store.decisions.records(cited) if cited else {}
        return [
            guardrail_event_message(event, traceparent_of(records.get(event.decision_id or ""))) for event in events
        ]


FEEDS: Final[dict[SourceName, type[UsageFeed | DecisionFeed | GuardrailEventFeed]]] = {
    "usage": UsageFeed,
    "decisions": DecisionFeed,
    "guardrail_events": GuardrailEventFeed,
}
