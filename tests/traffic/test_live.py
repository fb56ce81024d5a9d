"""The live profile: when, who, and how much, drawn the same way each time."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

from spendgate_daemon.demo import DEMO_CUSTOMERS
from spendgate_daemon.demo.profile import BURST_RUNS, BURST_SECONDS, runs_per_hour
from spendgate_daemon.traffic.live import FIRST_BURST_SECONDS, live_events

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
PROFILES = [customer.profile for customer in DEMO_CUSTOMERS]


def within(seconds, run_id="live", start=NOON):
    return list(itertools.takewhile(lambda event: event.at_seconds < seconds, live_events(run_id, PROFILES, start)))


def test_a_run_id_and_a_start_give_one_sequence_in_order():
    first, again = within(120), within(120)
    assert first == again
    assert [event.row for event in first] == list(range(len(first)))
    assert all(a.at_seconds <= b.at_seconds for a, b in itertools.pairwise(first))
    assert first != within(120, run_id="other")


def test_customers_send_about_as_often_as_their_profile_says():
    counts = Counter(event.customer_id for event in within(1800))
    for profile in PROFILES:
        expected = runs_per_hour(profile, NOON + timedelta(minutes=15)) / 2
        if not profile.bursts:
            assert abs(counts[profile.customer_id] - expected) <= 5 * expected**0.5 + 2, profile.customer_id


def test_the_clock_of_each_customer_is_its_own():
    start = datetime(2026, 11, 24, 3, tzinfo=UTC)
    tokyo, new_york = (next(p for p in PROFILES if p.utc_offset_hours == offset) for offset in (9, -5))
    assert (
        runs_per_hour(tokyo, start) / tokyo.runs_per_hour > 2 * runs_per_hour(new_york, start) / new_york.runs_per_hour
    )


def test_everyone_who_works_in_batches_starts_one_soon():
    bursting = [profile.customer_id for profile in PROFILES if profile.bursts]
    soon = within(FIRST_BURST_SECONDS * len(bursting) + BURST_SECONDS)
    counts = Counter(event.customer_id for event in soon)
    assert all(counts[customer_id] >= BURST_RUNS for customer_id in bursting)


def test_a_demo_is_alive_at_any_hour_and_light_enough_for_a_small_machine():
    for hour in range(0, 7 * 24, 5):
        at = NOON + timedelta(hours=hour)
        rate = len([e for e in within(60, start=at) if not _bursts(e.customer_id)]) / 60
        assert 2 < rate < 15


def _bursts(customer_id):
    return any(profile.bursts for profile in PROFILES if profile.customer_id == customer_id)
