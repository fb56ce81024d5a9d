"""The way of a decision: how long until the store, UsageBox and Kafka have it, at a steady pace."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import clients
from measure import Row, running_redis

from spendgate import Gate
from spendgate.control import Control
from spendgate_daemon.relays.kafka.loops import BATCHING
from spendgate_daemon.relays.kafka.properties import properties_of
from spendgate_daemon.relays.kafka.relay import KafkaRelay
from spendgate_daemon.relays.kafka.topic import Topic
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.relays.usagebox_usage import UsageBoxUsageRelay
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.store import Store
from spendgate_daemon.usagebox import UsageBox

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from kafka_servers import has_kafka, running_broker
from serving import serve

PER_SECOND = 200
SOURCE = "spendgate/bench"
QUIET = ("--appendonly", "yes", "--appendfsync", "everysec")


class Stage:
    """What takes `expected` events in the order in which they were decided; its lags in milliseconds."""

    def __init__(self, run_once: Callable[[], Awaitable[int]], expected: int) -> None:
        self.run_once = run_once
        self.expected = expected
        self.decided: deque[float] = deque()
        self.lags: list[float] = []

    async def run(self) -> None:
        while len(self.lags) < self.expected:
            for _ in range(await self.run_once()):
                self.lags.append((time.perf_counter() - self.decided.popleft()) * 1000)
            await asyncio.sleep(0.02)


def measure(*, quick: bool) -> list[Row]:
    seconds = 3 if quick else 20
    rows = []
    with running_redis(*QUIET) as (url, _), tempfile.TemporaryDirectory() as place, kafka(Path(place)) as bootstrap:
        asyncio.run(clients.install(url))
        store = Store.open(f"sqlite:///{place}/store.db")
        with serve(create_sandbox(Path(place) / "book.sqlite", key=None)) as usagebox_url:
            stages = asyncio.run(walk(url, usagebox_url, bootstrap, store, seconds))
        store.close()
    for name, stage in stages.items():
        lags = sorted(stage.lags)
        for share in (50, 99):
            at = lags[min(len(lags) - 1, len(lags) * share // 100)]
            rows.append(Row(f"decision -> {name} at {PER_SECOND}/s, p{share}", [at], "ms"))
    return rows


async def walk(url: str, usagebox_url: str, bootstrap: str | None, store: Store, seconds: int) -> dict[str, Stage]:
    async with making(url, usagebox_url, bootstrap, store, seconds * PER_SECOND) as (gate, stages):
        running = [asyncio.create_task(stage.run()) for stage in stages.values()]
        started = time.perf_counter()
        for number in range(seconds * PER_SECOND):
            await asyncio.sleep(max(0.0, started + number / PER_SECOND - time.perf_counter()))
            await gate.decide(clients.CUSTOMER, "tokens", 1, metadata=clients.METADATA)
            for stage in stages.values():
                stage.decided.append(time.perf_counter())
        await asyncio.gather(*running)
        return stages


@contextlib.asynccontextmanager
async def making(
    url: str, usagebox_url: str, bootstrap: str | None, store: Store, expected: int
) -> AsyncIterator[tuple[Gate, dict[str, Stage]]]:
    control, usagebox = Control.from_url(url), UsageBox(usagebox_url, None, dialect="hosted")
    stages = {
        "store": Stage(StoreRelay(control, store).run_once, expected),
        "UsageBox": Stage(UsageBoxUsageRelay(store, usagebox, SOURCE, now_us).run_once, expected),
    }
    if bootstrap is not None:
        stages["Kafka"] = Stage(_kafka_relay(store, bootstrap), expected)
    async with Gate.from_url(url, timeout_seconds=5) as gate:
        yield gate, stages
    await usagebox.aclose()
    await control.aclose()


def _kafka_relay(store: Store, bootstrap: str) -> Callable[[], Awaitable[int]]:
    make_topic = partial(Topic, "bench.decisions", "bench.decisions", SOURCE, properties_of(bootstrap, None))
    return KafkaRelay(store, "decisions", make_topic, BATCHING, now_us).run_once


@contextlib.contextmanager
def kafka(place: Path) -> Iterator[str | None]:
    """A broker, where this machine has one."""
    if not has_kafka():
        yield None
        return
    directory = place / "kafka"
    directory.mkdir()
    with running_broker(directory) as broker:
        yield broker.address


def now_us() -> int:
    return time.time_ns() // 1000
