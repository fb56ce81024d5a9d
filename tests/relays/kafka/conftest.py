"""A broker for all tests that do it no harm, and a store with something to send."""

from __future__ import annotations

import time
import uuid
from functools import partial

import pytest

from house import House, policy_of, quota
from kafka_servers import has_kafka, running_broker
from requirements import require
from spendgate_daemon.relays.batching import Batching
from spendgate_daemon.relays.kafka.relay import KafkaRelay
from spendgate_daemon.relays.kafka.topic import Topic
from spendgate_daemon.relays.store_relay import StoreRelay


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    require("Kafka (fetch_servers.py) or Java", found=has_kafka())
    with running_broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path):
    """One that a test may stop."""
    require("Kafka (fetch_servers.py) or Java", found=has_kafka())
    with running_broker(tmp_path) as running:
        yield running


@pytest.fixture
def prefix() -> str:
    """Of topics that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    made.contract(policy_of(quota(10**9)))
    yield made
    made.close()


@pytest.fixture
def fill(run, control, store, house):
    """Decide so many events, and store them; their decision ids."""

    def fill(number: int, **fields) -> list[str]:
        made = [house.decide(1, **fields).decision_id for _ in range(number)]
        relay = StoreRelay(control, store)
        while run(relay.run_once()):
            pass
        return made

    return fill


@pytest.fixture
def relay_of(store, prefix):
    """A relay that waits for nobody."""

    def relay_of(address: str, kind: str = "usage", *, size: int = 100) -> KafkaRelay:
        name = f"{prefix}.{kind}"
        make_topic = partial(Topic, name, f"{name}.install", "spendgate/install", {"bootstrap.servers": address})
        return KafkaRelay(store, kind, make_topic, Batching(size, 0), lambda: time.time_ns() // 1000)

    return relay_of


@pytest.fixture
def drain(run):
    def drain(relay) -> int:
        total = 0
        while done := run(relay.run_once()):
            total += done
        return total

    return drain


@pytest.fixture
def state(store):
    """Of one sink."""
    return lambda sink: next(each for each in store.deliveries.sinks() if each.sink == sink)
