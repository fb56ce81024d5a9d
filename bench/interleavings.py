"""Random interleavings of many callers at a cap that is nearly reached: not one unit may be overspent."""

from __future__ import annotations

import asyncio
import random

from measure import Row, running_redis

from spendgate import Gate
from spendgate.control import Control
from spendgate.limits import Quota
from spendgate.policy import EffectivePolicy
from spendgate.state import PolicyState
from spendgate.window import Window

SEED = 20261124
CAP = 1_000


def measure(*, quick: bool) -> list[Row]:
    with running_redis() as (url, _):
        overspent = asyncio.run(overspend(url, 20 if quick else 200))
    return [Row("overspent units, random interleavings", [float(overspent)], "", "<= 0")]


async def overspend(url: str, customers: int) -> int:
    """Units beyond the caps, over all customers; also fails when room was left although more was asked."""
    chance = random.Random(SEED)
    control, gate = Control.from_url(url), Gate.from_url(url, timeout_seconds=30)
    await control.prepare()
    limit = Quota("cap", ("tokens",), "token", "day", Window(length_seconds=86_400 * 365), CAP, CAP)
    policy = EffectivePolicy(document="bench", plan="bench", meters={"tokens": "token"}, limits=(limit,))
    await control.put_default(policy)
    beyond = 0
    for number in range(customers):
        name = f"customer-{number}"
        await control.put_state(name, PolicyState(policy.digest, "bench", "active", 1, "bench", 0), policy)
        quantities = [chance.randint(1, 60) for _ in range(100)]
        decisions = await asyncio.gather(*(gate.decide(name, "tokens", quantity) for quantity in quantities))
        spent = sum(d.event.units for d in decisions if d.allowed)
        assert spent + 60 > CAP or spent == sum(quantities)
        beyond += max(0, spent - CAP)
    await gate.aclose()
    await control.aclose()
    return beyond
