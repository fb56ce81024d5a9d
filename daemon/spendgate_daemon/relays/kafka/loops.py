"""A relay for each kind, made from the settings."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from confluent_kafka import KafkaException

from spendgate_daemon.jobs import Job
from spendgate_daemon.relays.batching import Batching
from spendgate_daemon.relays.kafka.messages import KINDS
from spendgate_daemon.relays.kafka.properties import properties_of
from spendgate_daemon.relays.kafka.relay import KafkaRelay
from spendgate_daemon.relays.kafka.topic import Topic
from spendgate_daemon.replica import Led
from spendgate_daemon.settings import Settings, SettingsError
from spendgate_daemon.store import Store
from spendgate_daemon.store.sources import SourceName

BATCHING: Final = Batching(size=1000, age_seconds=0.1)
IDLE_SECONDS: Final = 0.05
DEADLINE_SECONDS: Final = 120.0
"""More than all of Kafka's own deadlines in one run."""


def topic_name(settings: Settings, kind: SourceName) -> str:
    return f"{settings.kafka_topic_prefix}.{kind}"


def loops(settings: Settings, bootstrap: str, store: Store, install_id: str, led: Led) -> list[Job]:
    """Raises SettingsError where the library refuses the properties."""
    properties = properties_of(bootstrap, settings.kafka_properties_file)
    jobs = []
    for kind in KINDS:
        name = topic_name(settings, kind)
        # Under one id per topic and installation: a daemon that takes over shuts out the one before.
        make_topic = partial(Topic, name, f"{name}.{install_id}", f"spendgate/{install_id}", properties)
        try:
            make_topic()
        except KafkaException as exc:
            raise SettingsError(f"SPENDGATE_KAFKA_PROPERTIES_FILE: {exc.args[0].str()}") from exc
        relay = KafkaRelay(store, kind, make_topic, BATCHING, lambda: time.time_ns() // 1000)
        jobs.append(Job(relay.sink, led(relay.run_once), deadline_seconds=DEADLINE_SECONDS, idle_seconds=IDLE_SECONDS))
    return jobs
