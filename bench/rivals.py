"""The asyncio client beside what one would use instead, 16 callers each, in turns on the same Redis.

The rate limiters count one number a window: no idempotency, no record, no second limit. `the same by redis-py` makes our
decision through the usual client. The two-step loop reads a counter, compares, and writes: what one writes first, and what
overspends.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator

import clients
import limits
import redis
import redis.asyncio
import throttled.asyncio as throttled
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from measure import REPEATS, Row, running_redis

from spendgate import Gate, usage_event
from spendgate.calls import decide_arguments
from spendgate.keys import counters_key

CALLERS = 16
MANY = 10**9
CAP = 1_000
QUANTITY = 7
NAIVE_KEY = "naive"
_numbers = itertools.count()

Call = Callable[[], Awaitable[object]]


def measure(*, quick: bool) -> Iterator[Row]:
    requests = 1_600 if quick else 8_000
    with running_redis() as (url, port):
        asyncio.run(clients.install(url))
        rounds = [asyncio.run(one_round(url, clients.how_called(port), requests)) for _ in range(REPEATS)]
        overspent = [float(asyncio.run(overspent_by_two_steps(url))) for _ in range(REPEATS)]
    mine = [each["Spendgate"] for each in rounds]
    for rival in rounds[0]:
        if rival != "Spendgate":
            ratios = [own / each[rival] for own, each in zip(mine, rounds, strict=True)]
            yield Row(f"asyncio client / {rival}", ratios, "", ">= 1.5" if rival == "limits" else None)
    for name in rounds[0]:
        yield Row(f"decisions a second, 16 callers: {name}", [each[name] for each in rounds], "/s")
    yield Row(f"two-step loop: units spent beyond a cap of {CAP}", overspent, "units")


async def one_round(url: str, how: tuple[str, str], requests: int) -> dict[str, float]:
    """Calls a second of each, one after the other."""
    async with Gate.from_url(url) as gate, redis.asyncio.Redis.from_url(url) as client:
        fixed_window = FixedWindowRateLimiter(RedisStorage(f"async+{url}", implementation="redispy"))
        item = limits.RateLimitItemPerDay(MANY)
        throttle = throttled.Throttled(
            using=throttled.RateLimiterType.FIXED_WINDOW.value,
            quota=throttled.rate_limiter.per_day(MANY),
            store=throttled.RedisStore(server=url),
        )
        key = counters_key(clients.CUSTOMER)

        async def spendgate() -> None:
            event_id = f"v{next(_numbers):011}"
            await gate.decide(clients.CUSTOMER, "tokens", QUANTITY, event_id=event_id, metadata=clients.METADATA)

        async def by_redis_py() -> None:
            event_id = f"v{next(_numbers):011}"
            event = usage_event(clients.CUSTOMER, "tokens", QUANTITY, event_id=event_id, metadata=clients.METADATA)
            await client.execute_command(*how, 1, key, *decide_arguments(event, "decide", dry_run=False))

        async def two_steps() -> None:
            await spend_in_two_steps(client, MANY)

        calls: dict[str, Call] = {
            "Spendgate": spendgate,
            "limits": lambda: fixed_window.hit(item, clients.CUSTOMER),
            "throttled-py": lambda: throttle.limit(clients.CUSTOMER),
            "the same by redis-py": by_redis_py,
            "two-step loop": two_steps,
        }
        return {name: await calls_a_second(call, requests) for name, call in calls.items()}


async def calls_a_second(call: Call, requests: int) -> float:
    async def caller() -> None:
        for _ in range(requests // CALLERS):
            await call()

    await call()  # connects
    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return requests / (time.perf_counter() - started)


async def spend_in_two_steps(client: redis.asyncio.Redis, cap: int) -> bool:
    used = int(await client.hget(NAIVE_KEY, "used") or 0)
    if used + QUANTITY > cap:
        return False
    await client.hset(NAIVE_KEY, "used", used + QUANTITY)
    return True


async def overspent_by_two_steps(url: str) -> int:
    """Units that were let pass beyond the cap, when 16 callers ask until they are denied."""
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.delete(NAIVE_KEY)

        async def caller() -> int:
            spent = 0
            while await spend_in_two_steps(client, CAP):
                spent += QUANTITY
            return spent

        spent = sum(await asyncio.gather(*(caller() for _ in range(CALLERS))))
    return max(0, spent - CAP)
