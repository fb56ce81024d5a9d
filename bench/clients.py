"""The clients against redis-benchmark running the same script with the same arguments."""

from __future__ import annotations

import asyncio
import itertools
import time

import redis
from measure import Row, bench_policy, bench_state, five, redis_benchmark, running_redis

from spendgate import Gate, SyncGate, usage_event
from spendgate.calls import decide_arguments
from spendgate.control import Control
from spendgate.keys import counters_key
from spendgate.script import DECIDE

CUSTOMER = "bench"
METADATA = {"model": "claude-5", "context_window": 9000}
_numbers = itertools.count()
_runs = itertools.count(10)


def measure(*, quick: bool) -> list[Row]:
    requests = 4_000 if quick else 40_000
    with running_redis() as (url, port):
        asyncio.run(install(url))

        def asyncio_ratio() -> float:
            mine = asyncio.run(callers(url, 64, requests))
            return mine / redis_benchmark(port, 64, requests, benchmark_arguments(port))

        def sync_ratio() -> float:
            mine = one_thread(url, requests // 4)
            return mine / redis_benchmark(port, 1, requests // 4, benchmark_arguments(port))

        return [
            Row("asyncio client, 64 callers / redis-benchmark -c 64", five(asyncio_ratio), "", ">= 0.9"),
            Row("sync client, one caller / redis-benchmark -c 1", five(sync_ratio), "", ">= 0.8"),
        ]


async def install(url: str) -> None:
    control = Control.from_url(url)
    policy = bench_policy()
    await control.prepare()
    await control.put_default(policy)
    await control.put_state(CUSTOMER, bench_state(policy), policy)
    await control.aclose()


def benchmark_arguments(port: int) -> list[str | bytes]:
    """The decision as the client sends it to the Redis there, with the random parts where redis-benchmark puts its numbers. It draws the same numbers
    in every run, so a prefix keeps the events of one run apart from those of the next."""
    event = usage_event(CUSTOMER, "tokens", 7, event_id="__rand_int__", metadata=METADATA)
    arguments = decide_arguments(event, "decide", dry_run=False)
    arguments[5], arguments[6] = f"{next(_runs):02}__rand_int__", "abcdef"  # identity and fingerprint
    texts = [argument if isinstance(argument, bytes) else str(argument) for argument in arguments]
    return [*how_called(port), "1", counters_key(CUSTOMER), *texts]


def how_called(port: int) -> tuple[str, str]:
    """The decision as a function, or by its SHA-1 where Redis has no functions; it is loaded."""
    assert DECIDE.library is not None
    assert DECIDE.function is not None
    with redis.Redis(port=port) as client:
        try:
            client.function_load(DECIDE.library.source, replace=True)
        except redis.exceptions.ResponseError:
            client.script_load(DECIDE.source)
            return "EVALSHA", DECIDE.sha
    return "FCALL", DECIDE.function


async def callers(url: str, concurrency: int, requests: int) -> float:
    """Decisions a second of one asyncio client."""
    gate = Gate.from_url(url)

    async def caller() -> None:
        for _ in range(requests // concurrency):
            decision = await gate.decide(CUSTOMER, "tokens", 7, event_id=f"e{next(_numbers):011}", metadata=METADATA)
            assert decision.allowed

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed = time.perf_counter() - started
    await gate.aclose()
    return requests / elapsed


def one_thread(url: str, requests: int) -> float:
    with SyncGate.from_url(url) as gate:
        started = time.perf_counter()
        for _ in range(requests):
            gate.decide(CUSTOMER, "tokens", 7, event_id=f"s{next(_numbers):011}", metadata=METADATA)
        return requests / (time.perf_counter() - started)
