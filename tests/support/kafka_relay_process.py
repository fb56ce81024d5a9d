"""A process that sends usage to Kafka for ever, to be killed: `DATABASE_URL ADDRESS PREFIX`. It tells each batch."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

from spendgate_daemon.relays.batching import Batching
from spendgate_daemon.relays.kafka.relay import KafkaRelay
from spendgate_daemon.relays.kafka.topic import Topic
from spendgate_daemon.store import Store


async def main(database_url: str, address: str, prefix: str) -> None:
    store, name = Store.open(database_url), f"{prefix}.usage"
    topic = partial(Topic, name, f"{name}.install", "spendgate/install", {"bootstrap.servers": address})
    relay = KafkaRelay(store, "usage", topic, Batching(20, 0), lambda: time.time_ns() // 1000)
    while True:
        sent = await relay.run_once()
        print(sent, flush=True)
        if not sent:
            return


asyncio.run(main(*sys.argv[1:]))
