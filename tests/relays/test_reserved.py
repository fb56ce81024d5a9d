"""The daemon's round over reservations: what it finds, what it tells, and who was denied because of it."""

from __future__ import annotations

import time

import msgspec
import pytest
from prometheus_client import REGISTRY

from house import House, credits_limit, policy_of, quota
from spendgate.errors import GateUnavailable
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.limits import Concurrency, OpenCounter, PeriodCounter
from spendgate.state import Standing
from spendgate_daemon.hindsight import hindsight_of
from spendgate_daemon.relays import reserved
from spendgate_daemon.relays.reserved import LostReservations, ReservedCheck
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.relays.verifier import Verifier

LIMITS = (quota(1000), Concurrency(id="runs-open", meters=("tokens",), max=3))


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    yield made
    made.close()


@pytest.fixture
def check(control) -> ReservedCheck:
    return ReservedCheck(control)


@pytest.fixture
def lost(control, store, check) -> LostReservations:
    return LostReservations(control, store, check, now_us)


def value_of(name, **labels) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def reserve(house, quantity, *, customer="acme", **fields):
    event = house.gate.reserve(customer, "tokens", quantity, **fields)._event
    return house.run(house.gate.submit(event, mode="reserve"))


def hold(house, units, *, customer="acme", name="quota:tokens-day") -> None:
    """What a fault would leave in a counter."""
    key = counters_key(customer)
    counter = PeriodCounter.decode(house.redis.hget(key, name))
    house.redis.hset(key, name, msgspec.structs.replace(counter, reserved=units).encode())


def stored(run, control, store) -> None:
    relay = StoreRelay(control, store)
    while run(relay.run_once()):
        pass
    while run(Verifier(store).run_once()):
        pass


def test_a_round_repairs_every_customer_and_counts_what_is_open(house, run, check):
    house.contract(policy_of(*LIMITS))
    house.contract(policy_of(*LIMITS), customer="org:counters:{x}")
    for customer in ("acme", "org:counters:{x}"):
        reserve(house, 100, customer=customer)
        hold(house, 1000, customer=customer)
    before = value_of("spendgate_reserved_repairs_total")
    assert run(check.run_once()) == 2
    assert value_of("spendgate_reserved_repairs_total") == before + 2
    assert value_of("spendgate_reservations_open") == 2
    assert value_of("spendgate_reservations_overdue") == 0
    assert run(check.run_once()) == 0


def test_a_round_goes_on_where_the_last_run_ended(house, run, check, monkeypatch):
    monkeypatch.setattr(reserved, "CUSTOMERS_PER_RUN", 1)
    monkeypatch.setattr(reserved, "KEYS_PER_SCAN", 1)
    for number in range(60):
        house.contract(policy_of(*LIMITS), customer=f"c{number}")
        reserve(house, 100, customer=f"c{number}")
        hold(house, 1000, customer=f"c{number}")
    repaired, runs = run(check.run_once()), 1
    assert repaired < 60
    while repaired < 60:
        repaired, runs = repaired + run(check.run_once()), runs + 1
        assert runs < 2000
    assert value_of("spendgate_reserved_uncompared_customers") == 0


def test_a_customer_whose_policy_is_gone_holds_up_nobody(house, run, check):
    house.contract(policy_of(*LIMITS))
    house.contract(policy_of(quota(5)), customer="other")
    reserve(house, 100)
    reserve(house, 5, customer="other")
    hold(house, 1000)
    tag = tag_of(partition_of("other"))
    house.redis.delete(f"{tag}rules:{policy_of(quota(5)).digest}")
    before = value_of("spendgate_reserved_failures_total")
    assert run(check.run_once()) == 1
    assert value_of("spendgate_reserved_failures_total") == before + 1


def test_a_redis_that_is_away_fails_the_run(run):
    class Away:
        async def customers_with_counters(self, count):
            yield "acme"

        async def repair_reserved(self, customer_id):
            raise GateUnavailable("away")

    check = ReservedCheck(Away())
    for _ in range(2):  # and the next run begins anew
        with pytest.raises(GateUnavailable):
            run(check.run_once())


def test_a_repair_is_told_as_guardrail_events_and_verified(store, house, run, control, check):
    house.contract(policy_of(*LIMITS))
    reserve(house, 100)
    hold(house, 700)
    house.redis.hset(counters_key("acme"), "concurrency:runs-open", OpenCounter(0).encode())
    run(check.run_once())
    stored(run, control, store)
    events = store.guardrail_events.page(limit=10, kind="repair").items
    assert {(event.limit_id, event.message) for event in events} == {
        ("tokens-day", "tokens-day: 600 tokens held for reservations that are no more; put right"),
        ("runs-open", "runs-open: 1 run of open reservations not counted; put right"),
    }
    (repair,) = store.decisions.page(limit=10, repairs=True).items
    assert (repair.kind, repair.verified, {event.decision_id for event in events}) == (
        "repair",
        True,
        {repair.decision_id},
    )
    assert repair.decision_id not in {item.decision_id for item in store.decisions.page(limit=10).items}


def test_ends_are_counted_by_how_they_came(store, house, run, control):
    house.contract(policy_of(*LIMITS))
    before = {
        reason: value_of("spendgate_reservations_ended_total", reason=reason)
        for reason in ("committed", "released", "expired")
    }
    run(house.gate.commit(reserve(house, 5).reservation_id, 5))
    run(house.gate.release(reserve(house, 5).reservation_id))
    held = reserve(house, 5)
    run(house.gate.extend(held.reservation_id, 60))
    stored(run, control, store)
    after = {reason: value_of("spendgate_reservations_ended_total", reason=reason) for reason in before}
    assert after == {"committed": before["committed"] + 1, "released": before["released"] + 1} | {
        "expired": before["expired"]
    }


def lose_reservations(house, customer="acme") -> None:
    tag = tag_of(partition_of(customer))
    house.redis.delete(f"{tag}reservations:{customer}", f"{tag}ends:{customer}")


def test_a_reservation_that_the_store_saw_begin_and_redis_has_no_more_is_lost(store, house, run, control, lost):
    house.contract(policy_of(*LIMITS))
    ended, kept = reserve(house, 100), reserve(house, 200)
    run(house.gate.release(ended.reservation_id))
    stored(run, control, store)
    assert (run(lost.run_once()), run(lost.run_once())) == (0, 0)
    lose_reservations(house)
    assert (run(lost.run_once()), run(lost.run_once()), run(lost.run_once())) == (0, 1, 0)
    assert value_of("spendgate_reservations_lost") == 1
    assert reserve(house, 1000).allowed, "what it held is free again"
    assert kept.decision_id in lost._lost


def test_an_end_on_its_way_to_the_store_is_not_a_loss(store, house, run, control, lost):
    house.contract(policy_of(*LIMITS))
    held = reserve(house, 100)
    stored(run, control, store)
    run(house.gate.release(held.reservation_id))
    assert [run(lost.run_once()) for _ in range(3)] == [0, 0, 0]
    stored(run, control, store)
    assert run(lost.run_once()) == 0
    assert value_of("spendgate_reservations_lost") == 0


def test_the_same_event_id_again_is_another_reservation(store, house, run, control):
    """Long after the first was forgotten; here its memory is dropped."""
    house.contract(policy_of(*LIMITS))
    first = reserve(house, 100, event_id="run-1")
    run(house.gate.release(first.reservation_id))
    for key in house.redis.scan_iter("*seen:*"):
        house.redis.delete(key)
    second = reserve(house, 100, event_id="run-1")
    stored(run, control, store)
    unended = store.decisions.unended(0, 2**62, 10)
    assert [each.decision_id for each in unended] == [second.decision_id]
    first_end = store.decisions.end_of(store.decisions.get(first.decision_id))
    assert first_end.reason == "released"
    assert store.decisions.end_of(store.decisions.get(second.decision_id)) is None


# Who was denied wrongly --------------------------------------------------------------------------------------------------


def repaired(store, house, run, control, check):
    assert run(check.run_once()) == 1
    stored(run, control, store)
    return hindsight_of(store, store.decisions.page(limit=1, repairs=True).items[0])


def test_denials_that_would_have_passed_are_listed_and_others_are_not(store, house, run, control, check):
    house.contract(policy_of(*LIMITS))
    reserve(house, 300)
    fair = house.decide(900)
    hold(house, 1000)
    wrong = [house.decide(quantity, event_id=f"e{quantity}") for quantity in (1, 700)]
    right = house.decide(701)
    assert {each.outcome for each in (fair, *wrong, right)} == {"stop"}
    found = repaired(store, house, run, control, check)
    assert [each.decision_id for each in found.wrong] == [each.decision_id for each in wrong]
    assert (found.looked_at, found.counted) == (4, 0)
    assert house.decide(700, event_id="e700").allowed


def test_what_was_really_open_at_the_time_counts(store, house, run, control, check):
    """A denial while another run truly held the rest was right, although that run has ended since."""
    house.contract(policy_of(*LIMITS))
    held = reserve(house, 900)
    hold(house, 1000)
    during = house.decide(200)
    hold(house, 1900)
    run(house.gate.release(held.reservation_id))
    after = house.decide(200)
    assert (during.outcome, after.outcome) == ("stop", "stop")
    found = repaired(store, house, run, control, check)
    assert [each.decision_id for each in found.wrong] == [after.decision_id]


def test_places_taken_by_nobody_denied_somebody(store, house, run, control, check):
    house.contract(policy_of(*LIMITS))
    for _ in range(2):
        reserve(house, 1)
    house.redis.hset(counters_key("acme"), "concurrency:runs-open", OpenCounter(3).encode())
    denied = reserve(house, 1)
    assert denied.reason == "too_many_open"
    found = repaired(store, house, run, control, check)
    assert [each.decision_id for each in found.wrong] == [denied.decision_id]


def test_a_value_of_a_limit_with_per_and_its_denial(store, house, run, control, check):
    house.contract(policy_of(quota(1000, per="agent", max_values=5)))
    reserve(house, 10, metadata={"agent": "a"})
    (key,) = house.redis.keys("*per:quota:*")
    counter = PeriodCounter.decode(house.redis.hget(key, "a"))
    house.redis.hset(key, "a", PeriodCounter(counter.period_start_seconds, reserved=1000).encode())
    denied = [house.decide(990, metadata={"agent": "a"}), house.decide(991, metadata={"agent": "a"})]
    house.decide(1001, metadata={"agent": "b"})
    found = repaired(store, house, run, control, check)
    assert [each.decision_id for each in found.wrong] == [denied[0].decision_id]


def test_another_limit_that_denied_rightly_is_no_wrong(store, house, run, control, check):
    house.contract(policy_of(*LIMITS, credits_limit()), granted_micro_credits=100)
    reserve(house, 5)
    hold(house, 1000)
    house.decide(50)
    found = repaired(store, house, run, control, check)
    assert found.wrong == ()
    assert found.looked_at == 1


def test_each_repair_looks_back_to_the_one_before(store, house, run, control, check):
    house.contract(policy_of(*LIMITS))
    reserve(house, 1)
    hold(house, 1000)
    house.decide(10)
    assert len(repaired(store, house, run, control, check).wrong) == 1
    hold(house, 1000)
    second = house.decide(20)
    found = repaired(store, house, run, control, check)
    assert [each.decision_id for each in found.wrong] == [second.decision_id]


def test_denials_that_were_only_counted_are_said_to_be_unknown(store, house, run, control, check):
    house.contract(policy_of(*LIMITS))
    reserve(house, 1)
    hold(house, 1000)
    for _ in range(40):
        house.decide(1)
    standing = Standing.decode(house.redis.hget(counters_key("acme"), "*"))
    over = tuple((rule, second - 5, *rest) for rule, second, *rest in standing.denials)
    earlier = msgspec.structs.replace(standing, denials=over)
    house.redis.hset(counters_key("acme"), "*", earlier.encode())
    house.decide(1)
    found = repaired(store, house, run, control, check)
    assert len(found.wrong) == found.looked_at
    assert found.looked_at + found.counted == 41
    assert found.counted >= 1


def test_reservations_without_an_end_are_named_once_their_time_is_over(store, house, run, control, check):
    house.contract(policy_of(*LIMITS))
    gone = reserve(house, 400)
    stored(run, control, store)
    lose_reservations(house)
    assert repaired(store, house, run, control, check).without_end == ()
    (repair,) = store.decisions.page(limit=1, repairs=True).items
    late = repair.at_us + 3_600_000_000
    found = hindsight_of(store, msgspec.structs.replace(repair, at_us=late))
    assert [each.decision_id for each in found.without_end] == [gone.decision_id]
