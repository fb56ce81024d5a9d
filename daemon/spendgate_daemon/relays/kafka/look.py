"""What `spendgate doctor` says of Kafka: the broker asked, nothing made."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from spendgate_daemon.relays.kafka.loops import topic_name
from spendgate_daemon.relays.kafka.messages import KINDS
from spendgate_daemon.relays.kafka.properties import properties_of
from spendgate_daemon.relays.kafka.topic import OPERATION_SECONDS
from spendgate_daemon.settings import Settings


class Seen:
    """`missing` topics are made by the daemon where the broker lets it; `faults` keep it from sending."""

    def __init__(self) -> None:
        self.brokers = 0
        self.partitions: dict[str, int] = {}
        self.missing: list[str] = []
        self.faults: list[str] = []


def look(settings: Settings, bootstrap: str) -> Seen:
    """Raises SettingsError for properties that can't be used."""
    seen = Seen()
    try:
        admin = AdminClient({**properties_of(bootstrap, settings.kafka_properties_file), "log_level": 0})
        for kind in KINDS:
            name = topic_name(settings, kind)
            found = admin.list_topics(name, timeout=OPERATION_SECONDS)
            seen.brokers, topic = len(found.brokers), found.topics[name]
            if topic.error is None:
                seen.partitions[name] = len(topic.partitions)
            elif topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                seen.missing.append(name)
            else:
                seen.faults.append(f"topic {name}: {topic.error.str()}")
    except KafkaException as exc:
        seen.faults.append(exc.args[0].str())
    return seen
