"""Corrections on their way to UsageBox: as what they are, and where it has no words for them, in nobody's way."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from house import House, policy_of, quota
from serving import serve
from spendgate.keys import PARTITIONS
from spendgate_daemon.corrections import Asked, Corrections, CorrectionsBehind
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.relays.usagebox_usage import UsageBoxUsageRelay
from spendgate_daemon.relays.verifier import Verifier
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.usagebox import UsageBox


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    yield made
    made.close()


def asked(decision_id, quantity, number=1) -> Asked:
    return Asked(f"c{number}", decision_id, None, quantity, "ops", "the run was counted twice")


def drain(run, relay) -> int:
    total = 0
    while done := run(relay.run_once()):
        total += done
    return total


@pytest.fixture
def corrected(store, house, run, control):
    """A decision of 100 tokens that is corrected to 30, and another beside it; all stored."""
    house.contract(policy_of(quota(1000)))
    first = house.decide(100)
    relay = StoreRelay(control, store)
    drain(run, relay)
    made = run(Corrections(control, store).make(asked(first.decision_id, 30)))
    house.decide(5)
    drain(run, relay)
    return first.decision_id, made.decision_id


def test_usagebox_gets_a_correction_that_names_the_original(store, run, corrected, tmp_path):
    original, correction = corrected
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None, dialect="usagedb")) as url:
        box = UsageBox(url, None)
        assert drain(run, UsageBoxUsageRelay(store, box, "spendgate/test", now_us)) == 3
        start = datetime.now(UTC) - timedelta(hours=1)
        events = {each.event_id: each for each in run(box.events("acme", start, start + timedelta(hours=2)))}
        run(box.aclose())
    about = events[correction]
    assert (about.kind, about.quantity, about.correction_ref.original_event_id) == ("Correction", -70, original)
    assert about.correction_ref.reason == "the run was counted twice"
    assert about.timestamp_ms == events[original].timestamp_ms
    assert (events[original].kind, events[original].quantity) == ("Usage", 100)
    assert sum(each.quantity for each in events.values()) == store.usage.total("acme", "tokens", 0, 2**62) == 35


def test_a_dialect_without_corrections_gets_the_usage_and_the_rest_is_dead(store, run, corrected, tmp_path):
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None, dialect="hosted")) as url:
        box = UsageBox(url, None)
        assert drain(run, UsageBoxUsageRelay(store, box, "spendgate/test", now_us)) == 3
        run(box.aclose())
        span = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "source": "raw", "group_by": "meter_id"}
        [group] = httpx.get(f"{url}/v1/accounts/acme/usage", params=span).json()["groups"]
    assert group["sum"] == 105
    [sink] = [sink for sink in store.deliveries.sinks() if sink.sink == "usagebox.usage"]
    assert (sink.delivered, sink.dead) == (2, 1)
    assert "no Correction" in sink.error


def test_the_verifier_agrees(store, run, corrected):
    drain(run, Verifier(store))
    assert store.decisions.mismatches() == 0


def test_what_is_not_stored_in_time_is_refused_and_nothing_is_done(store, house, run, control):
    house.contract(policy_of(quota(1000)))
    decision_id = house.decide(100).decision_id
    drain(run, StoreRelay(control, store))
    run(Corrections(control, store).make(asked(decision_id, 30)))
    length = len(run(control.read_outbox(dict.fromkeys(range(PARTITIONS), "0-0"), 100)))
    with pytest.raises(CorrectionsBehind, match="not stored yet"):
        run(Corrections(control, store, wait_seconds=0).make(asked(decision_id, 20, number=2)))
    assert len(run(control.read_outbox(dict.fromkeys(range(PARTITIONS), "0-0"), 100))) == length
