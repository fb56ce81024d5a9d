"""The daemon as it is configured: what is decided reaches the topics, and is counted."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from kafka_topics import once
from spendgate_daemon.daemon import running
from spendgate_daemon.relays.sinks import SinkGauges
from spendgate_daemon.settings import Settings
from spendgate_daemon.wiring import open_daemon

pytestmark = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


def test_what_is_decided_reaches_the_topics_of_a_running_daemon(store, house, run, broker, prefix, redis_url, tmp_path):
    settings = Settings(
        redis_url=redis_url,
        database_url=str(store.database.engine.url),
        home=tmp_path,
        kafka_bootstrap=broker.address,
        kafka_topic_prefix=prefix,
    )

    def sent() -> set[str]:
        return {each.sink for each in store.deliveries.sinks() if each.delivered >= 5}

    async def scenario() -> list[str]:
        async with open_daemon(settings) as parts, running(parts):
            made = [(await house.gate.decide("acme", "tokens", 1)).decision_id for _ in range(5)]
            async with asyncio.timeout(60):
                while not await asyncio.to_thread(sent) >= {"kafka.usage", "kafka.decisions"}:
                    pass
            return made

    made = run(scenario())
    once(broker, prefix, made)
    once(broker, prefix, made, "decisions")


def test_what_waits_is_a_number_that_an_alarm_can_watch(fill, store, run, relay_of):
    fill(3)
    store.streams.open("kafka.usage", "usage")
    oldest_us = store.usage.by_positions([1])[0].at_us
    assert run(SinkGauges(store, lambda: oldest_us + 7_000_000).run_once()) >= 1

    def gauge(name):
        return REGISTRY.get_sample_value(f"spendgate_sink_{name}", {"sink": "kafka.usage"})

    assert (gauge("waiting"), gauge("lag_seconds"), gauge("dead")) == (3, 7, 0)
    stream = store.streams.open("kafka.usage", "usage")
    store.streams.bury(stream, 1, "x", 1, "too large")
    store.streams.settle(store.streams.open("kafka.usage", "usage"), 3)
    run(SinkGauges(store, lambda: oldest_us + 7_000_000).run_once())
    assert (gauge("waiting"), gauge("lag_seconds"), gauge("dead")) == (0, 0, 1)
