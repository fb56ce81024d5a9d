"""An event that comes again after the gate has forgotten it is debited once all the same."""

from __future__ import annotations

import contextlib

import msgspec
import pytest

from house import House, policy_of, quota
from spendgate.errors import GateUnavailable
from spendgate_daemon.relays.duplicates import CURSOR, LateDuplicates
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.wiring import take_back


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    made.contract(policy_of(quota(1000)))
    yield made
    made.close()


class Site:
    def __init__(self, run, control, store, house):
        self.run, self.store, self.house = run, store, house
        self.relay = StoreRelay(control, store)
        self.duplicates = LateDuplicates(store, take_back(control, store))

    def settle(self):
        for _ in range(3):
            while self.run(self.relay.run_once()):
                pass
            self.run(self.duplicates.run_once())

    def forget(self):
        """As the gate does, a quarter of an hour later or more."""
        for key in self.house.redis.scan_iter("sg:{p*}:seen:*"):
            self.house.redis.delete(key)

    @property
    def books(self):
        (limit,) = self.run(self.house.gate.snapshot("acme")).limits()
        return limit.used, self.store.usage.total("acme", "tokens", 0, 2**62)

    def kinds(self):
        return [event.kind for event in self.store.guardrail_events.page(limit=50).items]


@pytest.fixture
def site(run, control, store, house):
    return Site(run, control, store, house)


def test_a_late_duplicate_is_named_and_taken_back(site):
    first = site.house.decide(50, event_id="run-1")
    site.settle()
    site.forget()
    second = site.house.decide(50, event_id="run-1")
    assert (second.status, second.outcome) == ("decided", "allow")
    assert site.books[0] == 100
    site.settle()
    assert site.books == (50, 50)
    event = next(each for each in site.store.guardrail_events.page(limit=9).items if each.kind == "duplicate")
    assert event.decision_id == second.decision_id
    assert f"debited before, by {first.decision_id}" in event.message
    (made,) = site.store.corrections.of(second.decision_id)
    assert (made.before, made.after, made.actor) == (50, 0, "spendgate")


def test_a_late_duplicate_of_a_meter_with_a_long_name_is_taken_back_once(site):
    meter = "m" * 64
    policy = msgspec.structs.replace(policy_of(quota(1000, meters=(meter,))), meters={meter: "second"})
    site.house.contract(policy, version=2)
    for _ in range(2):
        last = site.house.decide(50, event_id="run-1", meter=meter)
        site.forget()
    site.settle()
    assert site.store.usage.total("acme", meter, 0, 2**62) == 50
    site.store.cursors.put({CURSOR: "0"})
    site.settle()
    assert len(site.store.corrections.of(last.decision_id)) == 1


def test_of_three_the_first_counts(site):
    for _ in range(3):
        site.house.decide(50, event_id="run-1")
        site.forget()
    site.settle()
    assert site.books == (50, 50)
    assert site.kinds().count("duplicate") == 2


def test_a_late_duplicate_of_a_reservation_is_taken_back(site):
    gate = site.house.gate
    for _ in range(2):
        run = gate.reserve("acme", "tokens", 80, event_id="run-1")
        given = site.run(gate.submit(run._event, mode="reserve"))
        site.run(gate.commit(given.reservation_id, 60))
        site.settle()
        site.forget()
        for key in site.house.redis.scan_iter("sg:{p*}:ended:*"):
            site.house.redis.delete(key)
    site.settle()
    assert site.books == (60, 60)


def test_the_same_id_of_another_customer_is_another_event(site):
    site.house.contract(policy_of(quota(1000)), customer="other")
    for customer in ("acme", "other"):
        site.house.decide(50, event_id="run-1", customer=customer)
    site.house.decide(50, event_id="run-2")
    site.settle()
    assert site.books == (100, 100)
    assert "duplicate" not in site.kinds()


def test_a_denial_and_a_release_debit_nothing(site):
    site.house.decide(2000, event_id="run-1")
    gate = site.house.gate
    run = gate.reserve("acme", "tokens", 80, event_id="run-1")
    given = site.run(gate.submit(run._event, mode="reserve"))
    site.run(gate.release(given.reservation_id))
    site.settle()
    site.forget()
    site.house.decide(50, event_id="run-1")
    site.settle()
    assert site.books == (50, 50)
    assert "duplicate" not in site.kinds()


@pytest.mark.parametrize("waits", [False, GateUnavailable("degraded", "no")])
def test_one_that_waits_holds_up_no_other_customer(site, monkeypatch, waits):
    """More of acme's wait than one batch has, and all of them come before the other's."""
    monkeypatch.setattr("spendgate_daemon.relays.duplicates.BATCH", 2)
    site.house.contract(policy_of(quota(1000)), customer="other")
    made = []
    for customer, event_id in [*(("acme", f"run-{number}") for number in range(3)), ("other", "run-0")]:
        for _ in range(2):
            last = site.house.decide(5, event_id=event_id, customer=customer)
            site.forget()
        made.append(last.decision_id)
        while site.run(site.relay.run_once()):
            pass
    asked, held = [], True

    async def take_back(_id, decision_id, *_):
        asked.append(decision_id)
        if held and decision_id in made[:3]:
            if isinstance(waits, Exception):
                raise waits
            return False
        return True

    duplicates = LateDuplicates(site.store, take_back)

    def run_all():
        for _ in range(4):
            with contextlib.suppress(GateUnavailable):
                site.run(duplicates.run_once())

    run_all()
    assert asked.count(made[3]) == 1
    assert made[1] not in asked, "of one customer in order"
    held = False
    run_all()
    assert asked[-3:] == made[:3]
    assert len(asked) == 4 + 4
    assert site.store.cursors.get(CURSOR) == str(site.store.guardrail_events.of_kind("duplicate", 0, 9)[-1].position)


def test_one_that_was_corrected_by_hand_before_is_left_alone(site):
    site.house.decide(50, event_id="run-1")
    site.settle()
    site.forget()
    second = site.house.decide(50, event_id="run-1")
    while site.run(site.relay.run_once()):
        pass
    site.run(site.duplicates._take_back("by-hand", second.decision_id, "tokens", "somebody was faster"))
    site.settle()
    assert site.books == (50, 50)
    assert len(site.store.corrections.of(second.decision_id)) == 1
