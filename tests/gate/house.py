"""Policies for the gate's tests."""

from __future__ import annotations

import redis

from spendgate import SyncGate
from spendgate.control import Control
from spendgate.keys import PARTITIONS
from spendgate.limits import Credits, PerEvent, Quota, Rate, Threshold, Weight
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record
from spendgate.state import PolicyState
from spendgate.window import Window

DAY = Window(length_seconds=86_400)
METERS = {"runs": "run", "tokens": "token", "gpu": "second"}
DENY_UNKNOWN = EffectivePolicy(document="test", plan="unknown", meters=METERS, limits=(), deny_unknown=True)


def policy_of(*limits, **fields) -> EffectivePolicy:
    return EffectivePolicy(document="test", plan="test", meters=METERS, limits=limits, **fields)


def quota(cap=1000, **fields) -> Quota:
    """A daily quota of tokens that blocks at its cap, unless told otherwise."""
    given = {
        "id": "tokens-day",
        "meters": ("tokens",),
        "unit": "token",
        "period": "day",
        "window": DAY,
        "hard_cap": cap,
        "thresholds": (Threshold("80%", -(-cap * 8 // 10)),),
    }
    return Quota(cap=cap, **given | fields)


def credits_limit(**fields) -> Credits:
    return Credits(id="wallet", meters=("tokens",), weights=(Weight("tokens", "*", 10),), **fields)


def rate(units=600, burst=600, **fields) -> Rate:
    return Rate(
        id="tokens-rate",
        meters=("tokens",),
        unit="token",
        rate=f"{units}/min",
        units=units,
        per_us=60_000_000,
        burst=burst,
        **fields,
    )


def per_event(**fields) -> PerEvent:
    return PerEvent(id="context", meters=("tokens",), unit="token", max=8_000, field="context_window", **fields)


def state_of(policy, version=1, status="active", **fields) -> PolicyState:
    return PolicyState(policy.digest, policy.plan, status, version, "test", 0, **fields)


class House:
    """One installation, a customer `acme` under a policy, and what tests ask about it."""

    def __init__(self, run, control: Control, gate, url: str) -> None:
        self.run, self.control, self.gate, self.url = run, control, gate, url
        self.sync = SyncGate.from_url(url, timeout_seconds=5)
        self.redis = redis.Redis.from_url(url)
        run(control.put_default(DENY_UNKNOWN))

    def contract(self, policy, version=1, *, customer="acme", **fields) -> bool:
        return self.run(self.control.put_state(customer, state_of(policy, version, **fields), policy))

    def decide(self, quantity=1, *, customer="acme", meter="tokens", **fields):
        return self.run(self.gate.decide(customer, meter, quantity, **fields))

    def records(self) -> list[Record]:
        cursors = dict.fromkeys(range(PARTITIONS), "0-0")
        entries = self.run(self.control.read_outbox(cursors, 10_000))
        return [decode_record(raw) for _, _, raw in entries]

    def close(self) -> None:
        self.sync.close()
        self.redis.close()
