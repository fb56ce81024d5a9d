"""Caps and credit grants of the demo's contracts, from what history used: plenty for most, almost used up for a few.

Close to a limit is set against the live rate, so that the first minutes of live traffic stop somebody on any day of a
month and at any hour.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from spendgate.limits import Credits
from spendgate.limits.check import matches
from spendgate_daemon.demo.customers import DemoCustomer
from spendgate_daemon.demo.history import usage_since
from spendgate_daemon.demo.profile import (
    BURST_RUNS,
    BURSTS_PER_HOUR,
    CONTEXT_MEAN,
    GENERATED_MEAN,
    GPU_SECONDS_MEAN,
    GPU_SHARE,
    Profile,
    runs_per_hour,
)
from spendgate_daemon.documents import compile_policy, load_default
from spendgate_daemon.usagebox import UsageEvent

MICRO_CREDITS: Final = 1_000_000
HOURS_PER_MONTH: Final = 31 * 24
CAPPED_METER: Final = "tokens.output"


class Contract(msgspec.Struct, frozen=True):
    """What UsageBox would know: contractual caps per meter, and whole credits granted (None: no wallet)."""

    caps: dict[str, int]
    credits_granted_total: int | None


def contract_of(customer: DemoCustomer, history: list[UsageEvent], now: datetime) -> Contract:
    """`history` is this customer's."""
    if customer.plan in ("starter", "growth"):
        return Contract({CAPPED_METER: _output_cap(customer, history, now)}, None)
    if customer.plan == "enterprise":
        return Contract({}, _credits(customer, history, now))
    return Contract({}, None)


def _output_cap(customer: DemoCustomer, history: list[UsageEvent], now: datetime) -> int:
    minutes = customer.runs_out_in_minutes
    if minutes is None:
        average = customer.profile.runs_per_hour + BURSTS_PER_HOUR * BURST_RUNS * customer.profile.bursts
        return _rounded_up(round(1.6 * average * HOURS_PER_MONTH * GENERATED_MEAN))
    month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    used = usage_since(history, month).get(customer.customer_id, {})
    so_far = sum(units for (meter, _), units in used.items() if meter == CAPPED_METER)
    return so_far + round(_live_runs(customer.profile, now, minutes) * GENERATED_MEAN)


def _credits(customer: DemoCustomer, history: list[UsageEvent], now: datetime) -> int:
    wallet = _wallet(now)
    used = usage_since(history, now - timedelta(days=365)).get(customer.customer_id, {})
    spent = sum(units * _weight(wallet, meter, model) for (meter, model), units in used.items())
    minutes = customer.runs_out_in_minutes
    if minutes is None:
        return _rounded_up(spent * 2 // MICRO_CREDITS + 100)
    runs = _live_runs(customer.profile, now, minutes)
    costliest = max(customer.profile.models, key=lambda model: _weight(wallet, CAPPED_METER, model))
    per_run = CONTEXT_MEAN * _weight(wallet, "tokens.input", costliest)
    per_run += GENERATED_MEAN * _weight(wallet, CAPPED_METER, costliest)
    per_run += GPU_SHARE * GPU_SECONDS_MEAN * _weight(wallet, "gpu.seconds", costliest) * customer.profile.gpu
    return -(-(spent + round(runs * per_run) + wallet.floor) // MICRO_CREDITS)


def _live_runs(profile: Profile, now: datetime, minutes: float) -> float:
    return max(1.0, runs_per_hour(profile, now)) * minutes / 60


def _wallet(now: datetime) -> Credits:
    policy = compile_policy(load_default(), "enterprise", {}, now=now)
    return next(limit for limit in policy.limits if isinstance(limit, Credits))


def _weight(wallet: Credits, meter: str, model: str) -> int:
    for weight in wallet.weights:
        if weight.meter == meter and matches(weight.model, model):
            return weight.micro_credits
    return 0


def _rounded_up(number: int) -> int:
    """To two leading digits, as contracts are written."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step
