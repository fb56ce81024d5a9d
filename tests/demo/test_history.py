"""The demo's history and contracts: deterministic, bounded, plausible, and consistent with each other."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from spendgate_daemon.demo import DEMO_CUSTOMERS
from spendgate_daemon.demo.contracts import contract_of
from spendgate_daemon.demo.history import history_end, history_events, usage_since
from spendgate_daemon.demo.profile import runs_per_hour
from spendgate_daemon.documents import load_default

NOW = datetime(2026, 11, 24, 12, 34, 56, tzinfo=UTC)


@pytest.fixture(scope="module")
def history():
    return list(history_events(NOW))


def test_an_instant_gives_one_history(history):
    assert history == list(history_events(NOW))
    assert history == list(history_events(NOW + timedelta(minutes=20))), "only the hour counts"
    overlap = {event.event_id: event for event in history_events(NOW + timedelta(hours=5))}
    assert all(overlap.get(event.event_id, event) == event for event in history)


def test_history_is_bounded_complete_hours_of_thirty_days(history):
    assert 30_000 < len(history) <= 50_000
    assert len({event.event_id for event in history}) == len(history)
    times = [event.timestamp_ms / 1000 for event in history]
    assert max(times) < history_end(NOW).timestamp() <= NOW.timestamp()
    assert min(times) >= (history_end(NOW) - timedelta(days=30)).timestamp()
    assert all(event.quantity > 0 and event.source == "demo-history" for event in history)


def test_history_speaks_of_the_default_documents_meters_in_their_units(history):
    meters = {name: meter.unit for name, meter in load_default().meters.items()}
    assert {event.meter_id: event.unit for event in history} == meters


def test_there_are_24_customers_with_names_on_four_plans():
    assert len(DEMO_CUSTOMERS) == 24
    assert len({customer.name for customer in DEMO_CUSTOMERS}) == 24
    assert all(re.fullmatch(r"[a-z][a-z-]{2,40}", customer.customer_id) for customer in DEMO_CUSTOMERS)
    plans = Counter(customer.plan for customer in DEMO_CUSTOMERS)
    assert plans.keys() == load_default().plans.keys()
    assert min(plans.values()) >= 4


def test_usage_follows_the_day_and_the_week(history):
    halden = next(customer for customer in DEMO_CUSTOMERS if customer.customer_id == "halden-insurance")
    by_hour: Counter[tuple[bool, int]] = Counter()
    for event in history:
        if event.account_id == halden.customer_id and event.meter_id == "ai_agent_run":
            local = datetime.fromtimestamp(event.timestamp_ms / 1000, UTC) + timedelta(hours=1)
            by_hour[local.weekday() < 5, local.hour] += event.quantity
    assert by_hour[True, 14] > 3 * by_hour[True, 3]
    days = Counter((NOW + timedelta(hours=1) - timedelta(days=back)).weekday() < 5 for back in range(30))
    assert by_hour[True, 14] / days[True] > 1.3 * by_hour[False, 14] / days[False]
    week = sum(runs_per_hour(halden.profile, NOW + timedelta(hours=hour)) for hour in range(168)) / 168
    assert week == pytest.approx(halden.profile.runs_per_hour, rel=0.05)


@pytest.mark.parametrize("customer", DEMO_CUSTOMERS, ids=lambda customer: customer.customer_id)
def test_contracts_leave_plenty_except_where_somebody_is_meant_to_run_out(customer, history):
    own = [event for event in history if event.account_id == customer.customer_id]
    contract = contract_of(customer, own, NOW)
    used = usage_since(own, NOW.replace(day=1, hour=0, minute=0, second=0))[customer.customer_id]
    output = sum(units for (meter, _), units in used.items() if meter == "tokens.output")
    if customer.plan in ("starter", "growth"):
        cap = contract.caps["tokens.output"]
        assert cap > output
        assert (output / cap > 0.99) == (customer.runs_out_in_minutes is not None)
    assert (contract.credits_granted_total is not None) == (customer.plan == "enterprise")
