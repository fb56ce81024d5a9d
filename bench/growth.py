"""How much one Redis holds, and whether it gets slower: memory by customer and by remembered event, cost by customers.

10,000 and 100,000 customers by default, a million with --million.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator

import redis
from clients import METADATA
from measure import REPEATS, Row, bench_policy, bench_state, running_redis
from redis_cpu import cpu_seconds

from spendgate import Gate
from spendgate.control import Control

SIZES: tuple[int, ...] = (10_000, 100_000)
MILLION = 1_000_000
AT_ONCE = 500
EVENTS = 32 * 1024
"""Of one round: as many as a generation of the memory gets for its hashes, 32 each (see sweep.lua), and a new Redis has 1,024."""
GIBIBYTE = 2**30
_chance = random.Random(20261124)
_numbers = itertools.count()


def measure(*, quick: bool) -> Iterator[Row]:
    sizes = [size // (10 if quick else 1) for size in SIZES]
    decisions = EVENTS // 10 if quick else EVENTS
    with running_redis() as (url, _), redis.Redis.from_url(url) as client:
        asyncio.run(prepare(url))
        base_bytes, present = used_bytes(client), 0
        for size in sizes:
            asyncio.run(add_customers(url, present, size))
            present = size
            delete(client, "outbox", "seen:*")
            a_customer = (used_bytes(client) - base_bytes) / size
            rounds = [asyncio.run(decide_many(url, client, size, decisions)) for _ in range(REPEATS)]
            an_event = [event_bytes for _, event_bytes in rounds]
            yield Row(f"Redis CPU per decision, {size:,} customers", [cost_us for cost_us, _ in rounds], "us")
            yield Row(f"Redis memory per customer, {size:,} customers", [a_customer], "bytes")
        yield Row("Redis memory per remembered event", an_event, "bytes")
        yield Row("customers in 1 GiB of Redis", [GIBIBYTE / a_customer], "customers")


async def prepare(url: str) -> None:
    control = Control.from_url(url)
    await control.prepare()
    await control.put_default(bench_policy())
    await control.aclose()


async def add_customers(url: str, present: int, size: int) -> None:
    """Customers with policy state, each of whom has used something of all limits."""
    policy = bench_policy()
    state = bench_state(policy)
    control, gate = Control.from_url(url, timeout_seconds=30), Gate.from_url(url, timeout_seconds=30)

    async def add(number: int) -> None:
        await control.put_state(customer(number), state, policy)
        await gate.decide(customer(number), "tokens", 7, event_id="first", metadata=METADATA)

    for first in range(present, size, AT_ONCE):
        await asyncio.gather(*map(add, range(first, min(size, first + AT_ONCE))))
    await gate.aclose()
    await control.aclose()


async def decide_many(url: str, client: redis.Redis, size: int, decisions: int) -> tuple[float, float]:
    """Microseconds of Redis' CPU a decision, over customers drawn at random, and the bytes that remembering one takes."""
    gate = Gate.from_url(url, timeout_seconds=30)

    async def decide() -> None:
        event_id = f"g{next(_numbers):011}"
        await gate.decide(customer(_chance.randrange(size)), "tokens", 7, event_id=event_id, metadata=METADATA)

    before_bytes, before_seconds = used_bytes(client), cpu_seconds(client)
    for done in range(0, decisions, AT_ONCE):
        await asyncio.gather(*(decide() for _ in range(min(AT_ONCE, decisions - done))))
    cost_us = (cpu_seconds(client) - before_seconds) / decisions * 1e6
    await gate.aclose()
    delete(client, "outbox")
    event_bytes = (used_bytes(client) - before_bytes) / decisions
    delete(client, "seen:*")
    return cost_us, event_bytes


def delete(client: redis.Redis, *names: str) -> None:
    """Keys of all partitions: what the store has taken over, or what was remembered long enough."""
    for name in names:
        keys = list(client.scan_iter(f"sg:{{p*}}:{name}", count=10_000))
        for first in range(0, len(keys), 1000):
            client.delete(*keys[first : first + 1000])


def used_bytes(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


def customer(number: int) -> str:
    return f"customer-{number:07}"
