"""The mirror of 100,000 customers against a sandbox in a process of its own: nothing changed, all changed, and a webhook's
way while everybody is read again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
from measure import REPEATS, Missing, Row, free_port, running_redis

from spendgate.client import Gate
from spendgate.control import Control
from spendgate_daemon.documents import load_default
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.policy_book import PolicyBook
from spendgate_daemon.mirror.poll import Poll
from spendgate_daemon.mirror.resync import Resync
from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.customers import CustomerChange, Customers
from spendgate_daemon.sandbox.webhooks import WebhookSender
from spendgate_daemon.store import Store
from spendgate_daemon.usagebox import UsageBox

CUSTOMERS = 100_000
QUICK_CUSTOMERS = 2_000
CAPS = 50
"""Different contractual caps: customers on equal terms share a policy, as price lists have it."""

PLANS = ("free", "starter", "growth", "enterprise")
HINTS = 100


def measure(*, quick: bool) -> list[Row]:
    customers = QUICK_CUSTOMERS if quick else CUSTOMERS
    with (
        tempfile.TemporaryDirectory() as directory,
        running_redis() as (redis_url, _),
        sandbox(Path(directory)) as (url, contracts),
    ):
        return asyncio.run(_measure(contracts, customers, url, redis_url, Path(directory)))


async def _measure(contracts: Contracts, customers: int, url: str, redis_url: str, directory: Path) -> list[Row]:
    contracts.sign(customers, 0)
    async with mirror(url, redis_url, directory) as (gate, poll, resync):
        first = await seconds_of(poll.poll_once)
        unchanged = [await seconds_of(resync.run_once) for _ in range(REPEATS)]
        idle = [await seconds_of(poll.poll_once) * 1000 for _ in range(REPEATS)]
        changed = []
        for round_number in range(1, 1 + REPEATS):
            contracts.sign(customers, round_number)
            changed.append(await seconds_of(poll.poll_once))
        lags = await hinted_during_resync(gate, poll, resync, contracts)
    size = f"{customers:,} customers"
    return [
        Row(f"mirror of {size}, all read again, nothing changed", unchanged, "s", "<= 5"),
        Row(f"mirror of {size}, all changed", changed, "s", "<= 60"),
        Row(f"mirror of {size}, all new", [first], "s"),
        Row(f"mirror of {size}, poll without changes", idle, "ms"),
        Row(
            "hint -> enforced while everybody is read again, p99",
            [sorted(lags)[len(lags) * 99 // 100]],
            "ms",
            "<= 1000",
        ),
    ]


async def hinted_during_resync(gate: Gate, poll: Poll, resync: Resync, contracts: Contracts) -> list[float]:
    """Milliseconds from a change to its being in force, one after the other, while resyncs run without a pause."""
    lags: list[float] = []

    async def again() -> None:
        while True:
            await resync.run_once()

    running = asyncio.create_task(again())
    for number in range(HINTS):
        cap = 10_000 + number
        started = time.perf_counter()
        await asyncio.to_thread(contracts.change, {"c0": CustomerChange(caps={"tokens.output": cap})})
        await poll.poll_once()
        state = (await gate.snapshot("c0")).state
        assert state is not None
        assert state.caps == {"tokens.output": cap}
        lags.append((time.perf_counter() - started) * 1000)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return lags


async def seconds_of(work: Callable[[], Awaitable[int]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


class Contracts:
    """The sandbox's customers, changed in its file."""

    def __init__(self, path: Path) -> None:
        book = Book(path)
        self._customers = Customers(book, WebhookSender(book, None, None, lambda: time.time_ns() // 1_000_000))

    def sign(self, customers: int, round_number: int) -> None:
        """Another contract for each of them."""
        for first in range(0, customers, 10_000):
            numbers = range(first, min(first + 10_000, customers))
            self.change({f"c{number}": _contract(number, round_number) for number in numbers})

    def change(self, changes: dict[str, CustomerChange]) -> None:
        self._customers.change_all(changes)


def _contract(number: int, round_number: int) -> CustomerChange:
    cap = 1000 * (1 + (number + round_number) % CAPS) + round_number
    return CustomerChange(name=f"Customer {number}", plan=PLANS[number % len(PLANS)], caps={"tokens.output": cap})


@contextlib.contextmanager
def sandbox(directory: Path) -> Iterator[tuple[str, Contracts]]:
    path, port = directory / "sandbox.sqlite3", free_port()
    command = [sys.executable, "-m", "spendgate_daemon.cli", "sandbox", "--file", str(path), "--home", str(directory)]
    environment = {name: value for name, value in os.environ.items() if name != "UBX_KEY"}
    environment["SPENDGATE_SANDBOX_PORT"] = str(port)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(transport=transport, timeout=20) as http:
            if not http.get(f"{url}/health").is_success:
                raise Missing("the sandbox did not start")
        yield url, Contracts(path)
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextlib.asynccontextmanager
async def mirror(url: str, redis_url: str, directory: Path) -> AsyncIterator[tuple[Gate, Poll, Resync]]:
    def now_us() -> int:
        return time.time_ns() // 1000

    store = Store.open(f"sqlite:///{directory / 'store.db'}")
    control = Control.from_url(redis_url)
    await control.prepare()
    async with Gate.from_url(redis_url, timeout_seconds=5) as gate, UsageBox(url, None) as usagebox:
        applier = Applier(control, store, PolicyBook(load_default(), lambda: datetime.now(UTC)), now_us)
        await applier.install_default()
        yield gate, Poll(control, gate, store, usagebox, applier, now_us), Resync(store, usagebox, applier, now_us)
    await control.aclose()
    store.close()
