"""Whose external usage is read when: the urgent first, everybody in time, and no more than UsageBox bears."""

from __future__ import annotations

import pytest

from mirror_world import World
from recorded_usagebox import RecordedUsageBox, Reply
from serving import serve
from spendgate import Gate
from spendgate.errors import GateUnavailable
from spendgate.keys import counters_key
from spendgate_daemon.mirror import totals as totals_module
from spendgate_daemon.mirror.terms import CustomerTerms
from spendgate_daemon.mirror.totals import UsageTotals
from spendgate_daemon.store import Store
from spendgate_daemon.store.customers import Observation

NOTHING = Reply({"watermark_ms": 1, "lines": []})
START_US = 1_795_000_000_000_000


@pytest.fixture
def crowd(run, control, gate, tmp_path):
    """60 customers of a UsageBox that answers what the test says, and a clock that the test sets."""
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    recorded = RecordedUsageBox()
    with serve(recorded) as url:
        made = World(run, control, gate, store, url)
        made.recorded, made.now_us = recorded, START_US
        made.ids = [f"c{number:02}" for number in range(60)]
        terms = [CustomerTerms(customer_id=each, name=each, plan="basic", caps={"tokens": 9}) for each in made.ids]
        run(made.applier.apply("usagebox", terms))
        for each in made.ids:
            recorded.on(f"/v1/accounts/{each}/usage", NOTHING)
        yield made
        made.person.close()
        run(made.usagebox.aclose())
    store.close()


def reader(crowd, **options):
    given = {"interval_seconds": 15, "within_seconds": 600} | options
    return UsageTotals(
        crowd.control, crowd.gate, crowd.store, crowd.usagebox, "spendgate/test", lambda: crowd.now_us, **given
    )


def asked(crowd):
    """Customers of the requests since the last call, once each, in order."""
    ids = list(dict.fromkeys(path.split("/")[3] for path in crowd.recorded.paths()))
    crowd.recorded.asked.clear()
    return ids


def observe(crowd, customer, **fields):
    given = {"state": "ok", "observed_at_us": crowd.now_us} | fields
    crowd.store.customers.observe([Observation(customer_id=customer, **given)])


def few(monkeypatch, number):
    """Rounds of so many customers, three quarters of them in turn."""
    monkeypatch.setattr(totals_module, "CUSTOMERS_MAX", number)
    monkeypatch.setattr(totals_module, "CUSTOMERS_MIN", number)
    monkeypatch.setattr(totals_module, "UNREAD_MIN", 1)


def test_who_runs_out_soonest_and_who_was_active_comes_before_the_longest_unread(crowd, monkeypatch):
    few(monkeypatch, 8)
    crowd.store.customers.note_totals_read(crowd.ids, crowd.now_us)
    for number, customer in enumerate(("c50", "c40", "c30", "c20", "c10", "c11", "c12", "c13", "c14")):
        observe(crowd, customer, exhausts_at_us=crowd.now_us + 1_000_000 * (number + 1), observed_at_us=crowd.now_us)
    crowd.now_us += 1_000_000
    for customer in ("c05", "c55"):
        observe(crowd, customer)
    chosen = list(crowd.store.customers.turns_to_read(8, 2))
    assert len(chosen) == 10
    assert {"c50", "c40", "c30", "c20", "c10", "c11"} <= set(chosen), "who runs out soonest"
    assert {"c05", "c55"} <= set(chosen), "who was active"
    assert set(chosen) & {"c00", "c01"}, "who is unread for longest"


def test_everybody_is_read_in_the_stated_time_and_the_urgent_in_each_round(crowd, monkeypatch):
    few(monkeypatch, 8)
    totals = reader(crowd)
    observe(crowd, "c59", exhausts_at_us=crowd.now_us + 10**9)
    rounds = []
    for _ in range(600 // 15):
        crowd.run(totals.read_once())
        rounds.append(asked(crowd))
        crowd.now_us += 15_000_000
    assert set().union(*rounds) == set(crowd.ids)
    assert all("c59" in each for each in rounds)
    number, oldest_us = crowd.store.customers.oldest_totals()
    assert number == 60
    assert crowd.now_us - oldest_us <= 600_000_000
    assert max(len(each) for each in rounds) <= 8


def test_a_small_installation_is_read_whole_in_each_round(crowd):
    assert totals_module.UNREAD_MIN < 60
    crowd.run(crowd.applier.cancel("usagebox", crowd.ids[totals_module.UNREAD_MIN :]))
    for _ in range(2):
        crowd.run(reader(crowd).read_once())
        assert sorted(asked(crowd)) == crowd.ids[: totals_module.UNREAD_MIN]


def test_a_push_back_ends_the_round_and_the_next_one_goes_on_with_the_unread(crowd):
    totals = reader(crowd)
    for customer in crowd.ids:
        crowd.recorded.on(f"/v1/accounts/{customer}/usage", Reply("slow down", 429, {"retry-after": "30"}))
    for customer in crowd.ids[:20]:
        crowd.recorded.on(f"/v1/accounts/{customer}/usage", NOTHING)
    rate = crowd.usagebox.read_rate
    read = crowd.run(totals.read_once())
    assert 0 < read <= 20
    assert crowd.usagebox.read_rate < rate * 0.6
    read_ids = set(asked(crowd))
    assert crowd.run(totals.read_once()) == 0, "nobody asks before the push-back ends"
    assert asked(crowd) == []
    turns = crowd.store.customers.turns_to_read(0, 60)
    assert sum(1 for at_us in turns.values() if at_us) == read
    assert {customer for customer, at_us in turns.items() if at_us} <= read_ids


def test_a_round_is_as_large_as_usagebox_bears(crowd):
    for customer in crowd.ids:
        observe(crowd, customer)
    crowd.usagebox.connection.pace.rate = 4.0
    assert len(reader(crowd)._choose(60)) == 4 * 15 // totals_module.READS_PER_CUSTOMER
    crowd.usagebox.connection.pace.rate = 0.5
    assert len(reader(crowd)._choose(60)) == totals_module.CUSTOMERS_MIN


def test_a_round_ends_when_it_is_time_for_the_next_one(crowd):
    totals = reader(crowd)
    clock = iter(range(START_US, START_US + 10**12, 10_000_000))
    totals._now_us = lambda: next(clock)
    assert crowd.run(totals.read_once()) == totals_module.KEPT_TOGETHER


def test_the_times_of_reading_outlive_a_restart_and_history_is_read_once(crowd, monkeypatch):
    few(monkeypatch, 4)
    crowd.run(reader(crowd).read_once())
    first = set(asked(crowd))
    crowd.now_us += 3_600_000_000
    crowd.run(reader(crowd).read_once())
    assert not first & set(asked(crowd)), "a new process goes on with the unread"
    crowd.store.customers.note_totals_read([each for each in crowd.ids if each not in first], crowd.now_us)
    crowd.run(reader(crowd).read_once())
    hours = [each.query for each in crowd.recorded.asked if "hour_start_ms" in each.query]
    assert hours
    assert not [query for query in hours if "from=2026-10" in query], "of the last hours only"


def test_a_customer_whose_totals_are_refused_holds_up_nobody(crowd):
    crowd.recorded.on("/v1/accounts/c00/usage", Reply("no such account", 404))
    crowd.run(reader(crowd).read_once())
    assert set(asked(crowd)) >= set(crowd.ids[:40])
    turns = crowd.store.customers.turns_to_read(0, 60)
    assert turns["c00"] == START_US


def everybody_is_read(crowd):
    read = sum(crowd.run(reader(crowd).read_once()) for _ in range(2))
    assert read == 2 * totals_module.UNREAD_MIN
    assert crowd.store.customers.oldest_totals() == (60, START_US)


@pytest.mark.parametrize("quantity", [10**16, 10**19])
def test_an_enormous_total_stops_its_customer_and_holds_up_nobody(crowd, quantity):
    hour_ms = START_US // 3_600_000_000 * 3_600_000
    line = {"source": "x", "meter_id": "tokens", "quantity": str(quantity), "count": 1, "hour_start_ms": str(hour_ms)}
    crowd.recorded.on("/v1/accounts/c07/usage", Reply({"watermark_ms": 1, "lines": [line]}))
    everybody_is_read(crowd)
    assert crowd.decide(1, customer="c07").reason == "quota_exceeded"
    [total] = crowd.store.usage.totals("c07")
    assert total.external == 8 * 10**15


def test_a_customer_whose_counters_are_broken_holds_up_nobody(crowd):
    key = counters_key("c07")
    crowd.run(crowd.control.redis.delete(key))
    crowd.run(crowd.control.redis.set(key, "no hash"))
    everybody_is_read(crowd)


def test_without_redis_nobody_is_taken_for_read(crowd):
    totals = reader(crowd)
    totals._external._gate = Gate.from_url("redis://127.0.0.1:1/0")
    with pytest.raises(GateUnavailable):
        crowd.run(totals.read_once())
    assert crowd.store.customers.oldest_totals() == (60, 0)


def test_cancelled_customers_are_not_read(crowd):
    crowd.run(crowd.applier.cancel("usagebox", ["c07"]))
    assert "c07" not in crowd.store.customers.turns_to_read(0, 60)
    assert crowd.store.customers.oldest_totals()[0] == 59
