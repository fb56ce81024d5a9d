"""Topics of a test: what is in them, and what they take."""

from __future__ import annotations

import random

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic

from kafka_servers import ids_of, read_topic


def once(broker, prefix, expected, kind="usage"):
    """That these and no others are in the topic, each once."""
    found = ids_of(read_topic(f"127.0.0.1:{broker.port}", f"{prefix}.{kind}"))
    assert sorted(found) == sorted(expected)


LARGE = {"event_id": "x" * 250, "metadata": {"model": random.Random(1).randbytes(450).hex()}}
"""Nothing that would pack well."""


def let_take(broker, name, size):
    """Let a topic take messages up to a size."""
    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
    if name not in admin.list_topics(timeout=20).topics:
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(20)
