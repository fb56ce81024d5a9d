"""The topics as a book beside the others: everything that is stored is there once, in the customer's order, and the sums agree.

They are read as a customer of ours would, with `read_committed`; what is stored is asked of the tables themselves, not by the
way the relay reads them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import sqlalchemy as sa

from kafka_servers import ids_of, read_topic
from spendgate_daemon.store import Store
from spendgate_daemon.store.schema import decisions, guardrail_events, usage_events

PREFIX = "books"
STORED = {
    "usage": sa.select(usage_events.c.customer_id, usage_events.c.event_id).order_by(usage_events.c.position),
    "decisions": sa.select(decisions.c.customer_id, decisions.c.decision_id)
    .where(decisions.c.kind.in_(("decision", "denials", "finish")))
    .order_by(decisions.c.position),
    "guardrail_events": sa.select(guardrail_events.c.customer_id, guardrail_events.c.id).order_by(
        guardrail_events.c.position
    ),
}
"""(customer, id) of what a topic is to have, in the order of the store."""


def delivered_to_kafka(store: Store) -> int:
    return sum(sink.delivered for sink in store.deliveries.sinks() if sink.sink.startswith("kafka."))


class TopicBooks:
    """What is in the topics of a broker, read once."""

    def __init__(self, address: str) -> None:
        self.topics = {kind: read_topic(address, f"{PREFIX}.{kind}") for kind in STORED}
        self._address = address

    def used(self) -> dict[tuple[str, str], int]:
        """Units by customer and meter."""
        found: Counter[tuple[str, str]] = Counter()
        for usage in (json.loads(message.value()) for message in self.topics["usage"]):
            found[usage["customer_id"], usage["meter"]] += usage["quantity"]
        return dict(found)

    def broken(self) -> int:
        """Messages of transactions that came to nothing: who reads without `read_committed` sees them."""
        everything = (read_topic(self._address, f"{PREFIX}.{kind}", committed=False) for kind in STORED)
        return sum(map(len, everything)) - sum(map(len, self.topics.values()))

    def faults(self, store: Store) -> list[str]:
        """What is lost, doubled, unknown or out of the customer's order."""
        return [fault for kind in STORED for fault in self._faults_of(kind, store)]

    def _faults_of(self, kind: str, store: Store) -> list[str]:
        with store.database.reading() as connection:
            stored = _by_customer(connection.execute(STORED[kind]))
        messages = self.topics[kind]
        sent = _by_customer(
            (message.key().decode(), id_) for message, id_ in zip(messages, ids_of(messages), strict=True)
        )
        if not stored:
            return [f"{kind}: nothing is stored, which proves nothing"]
        named = sorted(stored.keys() | sent.keys())
        return [f"{kind} of {name}: {fault}" for name in named if (fault := _difference(stored[name], sent[name]))]


def _by_customer(pairs) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for customer, id_ in pairs:
        found[customer].append(id_)
    return found


def _difference(stored: list[str], sent: list[str]) -> str:
    if stored == sent:
        return ""
    lost, more = Counter(stored) - Counter(sent), Counter(sent) - Counter(stored)
    if lost or more:
        return f"{lost.total()} lost, {more.total()} doubled or unknown: {[*lost][:5]} {[*more][:5]}"
    first = next(at for at, (one, other) in enumerate(zip(stored, sent, strict=True)) if one != other)
    return f"out of order from the {first}th on: {stored[first : first + 3]} came as {sent[first : first + 3]}"
