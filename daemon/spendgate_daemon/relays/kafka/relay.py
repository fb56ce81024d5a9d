"""A stream of the store → a topic, a transaction for each batch.

The topic knows how far it is (`topic.py`); the store's mark follows, in a transaction of its own. A kill between the two is
found at the next opening, where the topic is asked. It is believed only if the store has the same event at that place:
a store that was restored from a backup gives the numbers of its lost events to others, and those must not be passed over.
What comes twice then has the same id.

A message that is too large for the topic is dead and holds up nobody; a batch that is refused for its size is halved until
the culprit stands alone. Everything else is about the broker, and waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import structlog

from spendgate_daemon.relays.batching import Batching
from spendgate_daemon.relays.kafka.errors import KafkaUnavailable, MessageTooLarge
from spendgate_daemon.relays.kafka.feeds import FEEDS
from spendgate_daemon.relays.kafka.messages import Message
from spendgate_daemon.relays.kafka.topic import Place, Topic
from spendgate_daemon.relays.metrics import DELIVERED
from spendgate_daemon.store import Store
from spendgate_daemon.store.sources import SourceName
from spendgate_daemon.store.streams import Stream

REVIVED_MAX: Final = 100
"""A place names them one by one, and Kafka keeps 4096 bytes of it."""

_log = structlog.get_logger("spendgate.relay.kafka")


class Batch(msgspec.Struct, frozen=True):
    """`revived`: these were dead and have left the stream's order, which stays where it is."""

    messages: Sequence[Message]
    revived: bool

    @property
    def last(self) -> Message:
        return self.messages[-1]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(each.position for each in self.messages)


class KafkaRelay:
    """`kind` names the stream; `make_topic` makes its topic, not opened yet."""

    def __init__(
        self,
        store: Store,
        kind: SourceName,
        make_topic: Callable[[], Topic],
        batching: Batching,
        now_us: Callable[[], int],
    ) -> None:
        self.sink = f"kafka.{kind}"
        self._store = store
        self._kind: SourceName = kind
        self._feed = FEEDS[kind](store)
        self._make_topic = make_topic
        self._batching = batching
        self._now_us = now_us
        self._size = batching.size
        self._topic: Topic | None = None
        self._running = threading.Lock()

    async def run_once(self) -> int:
        """Send the next batch, if it is time for one; how many messages reached their end, delivered or dead. Raises
        KafkaUnavailable, and what waits is held."""
        return await asyncio.to_thread(self._run)

    def _run(self) -> int:
        # A run that was given up by its deadline goes on in its thread until Kafka's own deadlines end it.
        if not self._running.acquire(blocking=False):
            raise KafkaUnavailable(f"{self.sink}: the last run has not ended")
        try:
            topic = self._topic or self._open()
            stream = self._store.streams.open(self.sink, self._kind)
            batch = self._next(stream)
            return self._send(topic, stream, batch) if batch is not None else 0
        finally:
            self._running.release()

    def _open(self) -> Topic:
        """Open the topic, and bring the store's mark to where the topic is."""
        stream = self._store.streams.open(self.sink, self._kind)
        topic = self._make_topic()
        with self._held(stream.position):
            place = topic.open()
        self._store.streams.release(self.sink)
        if place is not None and (place.position > stream.position or place.revived):
            if self._store.streams.id_at(self._kind, place.position) == place.id:
                self._count(self._store.streams.settle(stream, place.position))
                self._store.deliveries.mark(self.sink, place.revived, "delivered", attempted_at_us=self._now_us())
            else:
                _log.error("the topic is ahead of a store that lost events", topic=topic.name, position=place.position)
        self._topic = topic
        return topic

    def _next(self, stream: Stream) -> Batch | None:
        """What leaves now, if anything: what was revived, then what is next in the stream."""
        now_us = self._now_us()
        revived = self._store.deliveries.due(self.sink, now_us, min(self._size, REVIVED_MAX))
        if revived:
            return Batch(self._feed.at([each.position for each in revived]), revived=True)
        messages = self._feed.after(stream.position, self._size)
        full = len(messages) == self._size  # which may be less than usual, after a refusal
        if messages and (full or self._batching.leaves(len(messages), messages[0].at_us, now_us)):
            return Batch(messages, revived=False)
        return None

    def _send(self, topic: Topic, stream: Stream, batch: Batch) -> int:
        try:
            with self._held(batch.last.position):
                topic.send(batch.messages, self._place(stream, batch))
        except MessageTooLarge as exc:
            self._topic = None
            if len(batch.messages) > 1:
                self._size = len(batch.messages) // 2
                return 1  # no message's end, but the next try is not to wait
            self._bury(stream, batch, f"{exc}: {len(batch.last.value)} bytes")
            return 1
        self._size = min(self._batching.size, self._size * 2)
        if batch.revived:
            self._store.deliveries.mark(self.sink, batch.positions, "delivered", attempted_at_us=self._now_us())
            self._count(len(batch.messages))
        else:
            self._count(self._store.streams.settle(stream, batch.last.position))
        return len(batch.messages)

    def _place(self, stream: Stream, batch: Batch) -> Place:
        if batch.revived:
            at = self._store.streams.id_at(self._kind, stream.position)
            return Place(stream.position, at or "", batch.positions)
        return Place(batch.last.position, batch.last.id)

    def _bury(self, stream: Stream, batch: Batch, cause: str) -> None:
        message = batch.last
        if batch.revived:
            self._store.deliveries.mark(self.sink, batch.positions, "dead", error=cause, attempted_at_us=self._now_us())
        else:
            self._store.streams.bury(stream, message.position, message.id, message.at_us, cause)
        DELIVERED.labels(self.sink, "dead").inc()
        _log.error("Kafka refused a message", id=message.id, cause=cause)

    def _count(self, number: int) -> None:
        DELIVERED.labels(self.sink, "delivered").inc(number)

    @contextmanager
    def _held(self, attempted: int) -> Iterator[None]:
        """Where Kafka takes nothing, the store says why, and the topic is opened anew."""
        try:
            yield
        except KafkaUnavailable as exc:
            self._topic = None
            self._store.streams.hold(self.sink, attempted, str(exc)[:500])
            raise
