"""Thirty days of hourly usage that reached UsageBox without passing the gate. Pure: an instant gives one history.

Each hour of a customer draws from a generator of its own, seeded with both names, so that hours and customers can be
made in any order and are the same each time.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from spendgate_daemon.demo.customers import DEMO_CUSTOMERS, DemoCustomer
from spendgate_daemon.demo.profile import (
    BURST_RUNS,
    CONTEXT_MEAN,
    GENERATED_MEAN,
    GPU_SECONDS_MEAN,
    GPU_SHARE,
    bursts_per_hour,
    draw_model,
    draw_poisson,
    runs_per_hour,
)
from spendgate_daemon.usagebox import UsageEvent

HISTORY_DAYS: Final = 30
HISTORY_SOURCE: Final = "demo-history"

UNITS: Final = {"ai_agent_run": "run", "tokens.input": "token", "tokens.output": "token", "gpu.seconds": "second"}


def history_end(now: datetime) -> datetime:
    """The start of the hour that is running: history holds completed hours only."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def history_events(now: datetime, customers: Iterable[DemoCustomer] = DEMO_CUSTOMERS) -> Iterator[UsageEvent]:
    """One event for each customer, completed hour and meter used in it, stamped in the middle of its hour."""
    end = history_end(now)
    for customer in customers:
        for hours in range(HISTORY_DAYS * 24, 0, -1):
            yield from _hour_events(customer, end - timedelta(hours=hours))


def usage_since(events: Iterable[UsageEvent], since: datetime) -> dict[str, dict[tuple[str, str], int]]:
    """Units per customer and (meter, model), of events at or after `since`."""
    since_ms = int(since.timestamp() * 1000)
    totals: defaultdict[str, defaultdict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for event in events:
        if event.timestamp_ms >= since_ms:
            totals[event.account_id][event.meter_id, event.model_id or ""] += event.quantity
    return {account: dict(units) for account, units in totals.items()}


def _hour_events(customer: DemoCustomer, start: datetime) -> Iterator[UsageEvent]:
    stamp = start.strftime("%Y%m%dT%H")
    draws = random.Random(f"{customer.customer_id}/{stamp}")  # noqa: S311  (a demo, not a secret)
    middle = start + timedelta(minutes=30)
    runs = draw_poisson(runs_per_hour(customer.profile, middle), draws)
    runs += BURST_RUNS * draw_poisson(bursts_per_hour(customer.profile, middle), draws)
    if not runs:
        return
    # The larger the hour the closer to the average: the spread of a mean falls with the root of its number.
    spread = min(0.5, 1.3 / runs**0.5)
    quantities = {
        "ai_agent_run": runs,
        "tokens.input": round(runs * CONTEXT_MEAN * draws.lognormvariate(0, spread)),
        "tokens.output": round(runs * GENERATED_MEAN * draws.lognormvariate(0, spread)),
        "gpu.seconds": round(runs * GPU_SHARE * GPU_SECONDS_MEAN) if customer.profile.gpu else 0,
    }
    model = draw_model(customer.profile, draws)
    for meter, quantity in quantities.items():
        if quantity > 0:
            yield UsageEvent(
                event_id=f"{HISTORY_SOURCE}/{customer.customer_id}/{stamp}/{meter}",
                account_id=customer.customer_id,
                meter_id=meter,
                quantity=quantity,
                unit=UNITS[meter],
                timestamp_ms=int(middle.timestamp() * 1000),
                source=HISTORY_SOURCE,
                model_id=model,
            )
