"""One topic, written to in transactions that say how far the stream has come.

A transaction holds the messages of a batch and, as the committed offset of a consumer group of our own that consumes
nothing, the place in the store that they lead to. Both become visible or neither does. So whoever opens the topic learns
what is in it, whenever the one before him was killed, and goes on behind it: no message is lost, and who reads
`read_committed` sees none twice. Opening also shuts out the one before, should he still live: Kafka lets only the last to
open write under a transactional id.

Kafka forgets the offset of a group that was idle for `offsets.retention.minutes`, 7 days by default. The store's own mark is
the same by then, unless a daemon was killed between the two and nobody ran another for all of that time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from spendgate_daemon.relays.kafka.errors import KafkaUnavailable, MessageTooLarge
from spendgate_daemon.relays.kafka.messages import Message

OPERATION_SECONDS: Final = 5.0
"""For each of the handful of steps of opening and sending. What takes longer is broken off, and looked up at the next open."""

OPTIONS: Final[Mapping[str, str | int]] = {
    "client.id": "spendgate",
    "log_level": 0,  # faults come as errors, which the caller tells
    "linger.ms": 0,  # batches are made before they get here
    "compression.type": "lz4",
    "partitioner": "murmur2_random",  # as Java's clients do, so that a customer's messages meet theirs
    "batch.size": 65_536,  # a batch in Kafka's sense: rarely larger than a topic allows of one message
}
"""What the configured properties may change."""


class Place(msgspec.Struct, frozen=True):
    """How far the topic is: the last event of the stream that is in it, and those of the transaction that had left the
    stream's order, by position."""

    position: int
    id: str
    revived: tuple[int, ...] = ()


class Topic:
    """Synchronous, for one thread at a time. After an error it is of no more use: make another."""

    def __init__(self, name: str, writer: str, source: str, properties: Mapping[str, Any]) -> None:
        """`writer` is the transactional id. Raises KafkaException for properties that the library does not know."""
        self.name = name
        self._source = source
        shared = {**OPTIONS, **properties}
        timeout_ms = int(OPERATION_SECONDS * 1000)
        self._producer = Producer(
            shared
            | {
                "transactional.id": writer,
                "enable.idempotence": True,
                "transaction.timeout.ms": 2 * timeout_ms,
                "message.timeout.ms": timeout_ms,
            }
        )
        self._marks = Consumer(
            {**properties, "client.id": "spendgate", "log_level": 0}
            | {"group.id": writer, "enable.auto.commit": False, "isolation.level": "read_committed"}
        )
        self._admin = AdminClient({**properties, "client.id": "spendgate", "log_level": 0})

    def open(self) -> Place | None:
        """Shut out whoever wrote before, end what he left half done, and tell how far he came; None: nothing is known of
        it. Makes the topic if there is none. Raises KafkaUnavailable."""
        try:
            self._ensure_topic()
            self._producer.init_transactions(OPERATION_SECONDS)
            [mark] = self._marks.committed([TopicPartition(self.name, 0)], timeout=OPERATION_SECONDS)
            if mark.error is not None:
                raise KafkaException(mark.error)  # noqa: TRY301  (the library reports some of its errors as values)
        except KafkaException as exc:
            raise KafkaUnavailable(f"topic {self.name}: {exc.args[0].str()}") from exc
        return msgspec.json.decode(mark.metadata, type=Place) if mark.metadata else None

    def send(self, messages: Sequence[Message], place: Place) -> None:
        """One transaction. Raises MessageTooLarge, and KafkaUnavailable where it may be that all of it is there: `open`
        tells."""
        refused: list[KafkaError] = []

        def note(error: KafkaError | None, _: Any) -> None:
            if error is not None:
                refused.append(error)

        try:
            self._producer.begin_transaction()
            for each in messages:
                self._producer.produce(
                    self.name,
                    key=each.customer_id.encode(),
                    value=each.value,
                    headers=each.headers(self._source),
                    on_delivery=note,
                )
            waiting = self._producer.flush(OPERATION_SECONDS)
            if refused:
                self._give_up(refused[0])
            if waiting:
                self._give_up(KafkaError(KafkaError.REQUEST_TIMED_OUT, f"{waiting} messages were not acknowledged"))
            mark = TopicPartition(self.name, 0, place.position, metadata=msgspec.json.encode(place).decode())
            self._producer.send_offsets_to_transaction([mark], self._marks.consumer_group_metadata(), OPERATION_SECONDS)
            self._producer.commit_transaction(OPERATION_SECONDS)
        except KafkaException as exc:
            self._give_up(exc.args[0])

    def _give_up(self, error: KafkaError) -> NoReturn:
        """The transaction is left as it is: the next open ends it. (Aborted here, librdkafka 2.16 may purge the messages
        of the one after, too.)"""
        too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
        raise (MessageTooLarge if too_large else KafkaUnavailable)(f"topic {self.name}: {error.str()}")

    def _ensure_topic(self) -> None:
        """As many partitions and replicas as the broker's defaults say."""
        found = self._admin.list_topics(self.name, timeout=OPERATION_SECONDS).topics[self.name]
        if found.error is None:
            return
        if found.error.code() not in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE):
            raise KafkaException(found.error)
        made = self._admin.create_topics([NewTopic(self.name, -1, -1)], operation_timeout=OPERATION_SECONDS)
        try:
            made[self.name].result(OPERATION_SECONDS)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                reason = exc.args[0].str()
                raise KafkaUnavailable(f"topic {self.name} is missing and can't be made: {reason}") from exc
