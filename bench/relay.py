"""The store relay against what one Redis core can decide: it must not be the part that falls behind."""

from __future__ import annotations

import asyncio
import tempfile
import time

import clients
from measure import Missing, Row, five, redis_benchmark, running_postgresql, running_redis

from spendgate.control import Control
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.serving import collect_rarely
from spendgate_daemon.store import Store


def measure(*, quick: bool) -> list[Row]:
    requests = 2_000 if quick else 20_000
    collect_rarely()  # as the daemon does
    with tempfile.TemporaryDirectory() as directory:
        rows = drained("SQLite", f"sqlite:///{directory}/store.db", requests, "0.5")
    try:
        with running_postgresql() as url:
            rows += drained("PostgreSQL", url, requests)
    except Missing as missing:
        print(f"left out PostgreSQL: {missing}")
    return rows


def drained(name: str, database_url: str, requests: int, least: str | None = None) -> list[Row]:
    rates: list[float] = []
    costs: list[float] = []
    with running_redis() as (url, port):
        asyncio.run(clients.install(url))
        store = Store.open(database_url)

        def ratio() -> float:
            made = redis_benchmark(port, 16, requests, clients.benchmark_arguments(port))
            started, busy = time.perf_counter(), time.process_time()
            stored = asyncio.run(drain(url, store))
            costs.append((time.process_time() - busy) / stored * 1_000_000)
            rates.append(stored / (time.perf_counter() - started))
            return rates[-1] / made

        ratios = five(ratio)
        store.close()
    return [
        Row(f"store relay ({name}) / decisions one Redis core can make", ratios, "", f">= {least}" if least else None),
        Row(f"store relay ({name})", rates, "records/s"),
        Row(f"store relay ({name}), its own CPU a record", costs, "µs"),
    ]


async def drain(url: str, store: Store) -> int:
    control = Control.from_url(url)
    relay = StoreRelay(control, store)
    stored = 0
    while done := await relay.run_once():
        stored += done
    await control.aclose()
    return stored
