"""The store relay against what one Redis core can decide: it must not be the part that falls behind."""

from __future__ import annotations

import asyncio
import tempfile
import time

import clients
import redis
from measure import Row, five, redis_benchmark, running_redis

from spendgate.control import Control
from spendgate.script import DECIDE
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.store import Store


def measure(*, quick: bool) -> list[Row]:
    requests = 2_000 if quick else 20_000
    with running_redis() as (url, port), tempfile.TemporaryDirectory() as directory:
        asyncio.run(clients.install(url))
        with redis.Redis.from_url(url) as client:
            client.script_load(DECIDE.source)
        store = Store.open(f"sqlite:///{directory}/store.db")
        rates: list[float] = []
        costs: list[float] = []

        def ratio() -> float:
            made = redis_benchmark(port, 16, requests, clients.benchmark_arguments())
            started, busy = time.perf_counter(), time.process_time()
            stored = asyncio.run(drain(url, store))
            costs.append((time.process_time() - busy) / stored * 1_000_000)
            rates.append(stored / (time.perf_counter() - started))
            return rates[-1] / made

        ratios = five(ratio)
        store.close()
    return [
        Row("store relay (SQLite) / decisions one Redis core can make", ratios, "", ">= 0.5"),
        Row("store relay (SQLite)", rates, "records/s"),
        Row("store relay (SQLite), its own CPU a record", costs, "µs"),
    ]


async def drain(url: str, store: Store) -> int:
    control = Control.from_url(url)
    relay = StoreRelay(control, store)
    stored = 0
    while done := await relay.run_once():
        stored += done
    await control.aclose()
    return stored
