"""What the demo shows in its first minutes, on any day and at any hour: the live profile, decided by `decide` itself."""

from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from spendgate.decide import decide
from spendgate.event import usage_event
from spendgate.limits import Credits, PeriodCounter, Quota, WalletCounter, counter_field
from spendgate.limits.check import matches
from spendgate.state import PolicyState
from spendgate_daemon.demo import DEMO_CUSTOMERS
from spendgate_daemon.demo.contracts import contract_of
from spendgate_daemon.demo.history import history_events
from spendgate_daemon.documents import compile_policy, load_default
from spendgate_daemon.traffic.live import live_events
from spendgate_daemon.traffic.options import TrafficOptions

DOCUMENT = load_default()
MINUTES = 15
PROFILES = [customer.profile for customer in DEMO_CUSTOMERS]


class Customer:
    """One customer as the gate would keep it, with the history as usage recorded outside the gate."""

    def __init__(self, customer, history, now):
        contract = contract_of(customer, history, now)
        self.policy = compile_policy(DOCUMENT, customer.plan, contract.caps, now=now)
        granted = contract.credits_granted_total
        self.state = PolicyState(
            policy=self.policy.digest,
            plan=customer.plan,
            status="active",
            version=1,
            source="usagebox",
            updated_at_us=0,
            granted_micro_credits=None if granted is None else granted * 1_000_000,
        )
        self.counters = {
            counter_field(limit): counter_after(limit, history, int(now.timestamp() * 1_000_000))
            for limit in self.policy.limits
            if isinstance(limit, Quota | Credits)
        }
        self.standing = None
        self.states = []
        self.outcomes = defaultdict(int)
        self.crossed = []

    def submit(self, event, now_us):
        verdict = decide(self.policy, self.state, self.counters, [], event, now_us, standing=self.standing)
        self.counters |= verdict.counters
        self.standing = verdict.standing
        self.states.append(verdict.standing.state)
        self.outcomes[verdict.outcome] += 1
        self.crossed += verdict.crossed


def counter_after(limit, history, now_us):
    """The counter that the mirror's readings of the history lead to."""
    if isinstance(limit, Quota):
        start, _ = limit.window.period_at(now_us)
        external = sum(e.quantity for e in history if e.meter_id in limit.meters and e.timestamp_ms >= start * 1000)
        return PeriodCounter(period_start_seconds=start, external=external)
    external = 0
    for event in history:
        weight = next(
            (w for w in limit.weights if w.meter == event.meter_id and matches(w.model, event.model_id)), None
        )
        external += event.quantity * weight.micro_credits if weight is not None else 0
    return WalletCounter(external=external)


@pytest.mark.parametrize(
    "now",
    [
        datetime(2026, 11, 24, 12, 34, tzinfo=UTC),
        datetime(2026, 12, 1, 0, 7, tzinfo=UTC),  # a month that has hardly begun
        datetime(2027, 2, 28, 23, 40, tzinfo=UTC),  # and one that ends, on a Sunday night
    ],
    ids=str,
)
def test_a_few_stop_some_wait_and_most_go_on(now):
    history = defaultdict(list)
    for event in history_events(now):
        history[event.account_id].append(event)
    customers = {c.customer_id: Customer(c, history[c.customer_id], now) for c in DEMO_CUSTOMERS}
    for event in itertools.takewhile(lambda e: e.at_seconds < MINUTES * 60, live_events("demo", PROFILES, now)):
        at = now + timedelta(seconds=event.at_seconds)
        submitted = usage_event(**decoded(event))
        customers[event.customer_id].submit(submitted, int(at.timestamp() * 1_000_000))
    stopped = {customer_id for customer_id, made in customers.items() if "stopped" in made.states}
    throttled = {customer_id for customer_id, made in customers.items() if made.outcomes["throttle"]}
    assert {"finch-harbor", "kestrel-aerospace"} <= stopped
    assert len(stopped) <= 4
    assert 2 <= len(throttled) <= 5
    assert throttled >= {"ridgeline-homes", "lanternfish-games", "tinroof-media"} - stopped
    assert ("output-month", "overage") in customers["copperline-energy"].crossed
    calm = [made for made in customers.values() if set(made.states) <= {"ok"}]
    assert len(calm) >= 15
    total = sum(sum(made.outcomes.values()) for made in customers.values())
    allowed = sum(made.outcomes["allow"] for made in customers.values())
    assert allowed / total > 0.6


def decoded(event):
    return msgspec.json.decode(event.body)


def test_options_never_show_their_keys():
    options = TrafficOptions(api_url="http://x", decide_key="sg_1_secret", read_key="sg_2_secret")
    assert "secret" not in repr(options)
