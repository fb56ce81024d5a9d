"""What a decision costs Redis: the time of its one core, parsing and answering included, with one, four and eight limits.

One customer is on one core, so the inverse is the ceiling of a single customer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import redis
from clients import CUSTOMER, benchmark_arguments, install
from measure import REPEATS, Row, redis_benchmark, running_redis

from spendgate.control import Control
from spendgate.limits import Limit, PerEvent, Quota, Rate, Threshold
from spendgate.policy import EffectivePolicy
from spendgate.state import PolicyState
from spendgate.window import Window

PIPELINED = 16
BIG = 10**14


def measure(*, quick: bool) -> Iterator[Row]:
    requests = 4_000 if quick else 40_000
    costs: dict[int, list[float]] = {1: [], 4: [], 8: []}
    with running_redis() as (url, port):
        asyncio.run(install(url))
        with redis.Redis.from_url(url) as client:
            for version in range(REPEATS):
                for count, values in costs.items():
                    asyncio.run(contract(url, policy_with(count), 10 * version + count))
                    values.append(cpu_us(client, port, requests))
    for count, values in costs.items():
        yield Row(f"Redis CPU per decision, limits: {count}", values, "us")
    yield Row("ceiling of a single customer, four limits", [1e6 / value for value in costs[4]], "decisions/s")


def policy_with(count: int) -> EffectivePolicy:
    """The first `count` of eight limits, of the kinds that a contract has, none of which denies."""
    meters = ("tokens",)

    def quota(name: str, seconds: int) -> Quota:
        window = Window(length_seconds=seconds)
        return Quota(name, meters, "token", name, window, BIG, BIG, thresholds=(Threshold("80%", BIG),))

    limits: list[Limit] = [
        quota("day", 86_400),
        quota("month", 2_592_000),
        Rate("rate", meters, "token", "big", 10**6, 1, 10**12),
        PerEvent("context", meters, "token", 200_000, field="context_window"),
        quota("hour", 3_600),
        quota("week", 604_800),
        Rate("burst", meters, "token", "big", 10**6, 1, 10**12),
        PerEvent("event", meters, "token", 10**12),
    ]
    return EffectivePolicy("bench", f"with {count}", {"tokens": "token"}, tuple(limits[:count]), models=("claude-*",))


async def contract(url: str, policy: EffectivePolicy, version: int) -> None:
    control = Control.from_url(url)
    await control.put_state(CUSTOMER, PolicyState(policy.digest, "bench", "active", version + 2, "bench", 0), policy)
    await control.aclose()


def cpu_us(client: redis.Redis, port: int, requests: int) -> float:
    """Microseconds of CPU that Redis used for each, by its own account. Commands are pipelined, so that none of it is
    waiting for the next one."""
    before = cpu_seconds(client)
    redis_benchmark(port, 4, requests, benchmark_arguments(port), pipelined=PIPELINED)
    return (cpu_seconds(client) - before) / requests * 1e6


def cpu_seconds(client: redis.Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])
