"""How long one caller waits: at 10,000 events a second that don't wait for each other, and when Redis stops answering.

The event loop waits by `select`, because epoll waits in whole milliseconds, and half of that would be measured as latency.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import selectors
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator
from functools import partial

import clients
import redis
from measure import Row, five, running_redis

from spendgate import Gate, GateUnavailable

EVENTS_A_SECOND = 10_000
OUTAGE_EVENTS_A_SECOND = 1_000
TICK_SECONDS = 0.0002
_numbers = itertools.count()


def measure(*, quick: bool) -> Iterator[Row]:
    seconds = 0.5 if quick else 3.0
    with running_redis() as (url, _):
        asyncio.run(clients.install(url))
        open_loop = five(lambda: run(p99_of_open_loop(url, seconds)))
    yield Row("open loop 10,000/s in process, p99", open_loop, "ms", "<= 2")
    yield Row("any answer, in an outage too, p99.9", five(partial(in_an_outage, seconds)), "ms", "<= 50")


def run(measurement: Coroutine[None, None, float]) -> float:
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(measurement)


async def p99_of_open_loop(url: str, seconds: float) -> float:
    async with Gate.from_url(url) as gate:
        await decide(gate)
        return percentile(await open_loop(gate, EVENTS_A_SECOND, seconds), 0.99)


def in_an_outage(seconds: float) -> float:
    with running_redis() as (url, _):
        asyncio.run(clients.install(url))
        return run(worst_in_an_outage(url, seconds))


async def worst_in_an_outage(url: str, seconds: float) -> float:
    """Redis answers, is stopped, goes on, and is killed, each for a quarter of the time. Every answer counts, the refusals
    as well."""
    with redis.Redis.from_url(url) as client:
        process = int(client.info("server")["process_id"])
    with tempfile.TemporaryDirectory() as journal:
        async with Gate.from_url(url, journal=journal) as gate:
            await decide(gate)
            loop = asyncio.get_running_loop()
            for quarter, number in enumerate((signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL), start=1):
                loop.call_later(seconds * quarter / 4, os.kill, process, number)
            return percentile(await open_loop(gate, OUTAGE_EVENTS_A_SECOND, seconds), 0.999)


async def open_loop(gate: Gate, events_a_second: int, seconds: float) -> list[float]:
    """Milliseconds from when each event was due until its answer. Events are due at even distances, whatever became of the
    earlier ones: what is late in starting is late in its answer."""
    latencies: list[float] = []
    began = time.perf_counter()
    events = int(events_a_second * seconds)

    async def one(due: float) -> None:
        await decide(gate)
        latencies.append((time.perf_counter() - due) * 1000)

    async with asyncio.TaskGroup() as group:
        started = 0
        while started < events:
            for due in due_until(began, started, events, events_a_second):
                group.create_task(one(due))
                started += 1
            await asyncio.sleep(TICK_SECONDS)
    return latencies


def due_until(began: float, started: int, events: int, events_a_second: int) -> list[float]:
    """When the events are due that should have started by now."""
    by_now = min(events, int((time.perf_counter() - began) * events_a_second) + 1)
    return [began + number / events_a_second for number in range(started, by_now)]


async def decide(gate: Gate) -> None:
    event_id = f"l{next(_numbers):011}"
    try:
        await gate.decide(clients.CUSTOMER, "tokens", 7, event_id=event_id, metadata=clients.METADATA)
    except GateUnavailable:
        return  # an answer, too


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
