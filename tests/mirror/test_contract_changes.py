"""A contract changes in the middle of a period: what was used stays used, and what is enforced is the new one at once."""

from __future__ import annotations

import time

import pytest

from mirror_world import DOCUMENT
from spendgate.limits.check import Grant
from spendgate_daemon.documents import load_document
from spendgate_daemon.mirror.terms import CustomerTerms

MORE_PLANS = """  bigger:
    limits:
      - {kind: quota, id: month, meter: tokens, cap: 1000, period: month}
  other:
    limits:
      - {kind: quota, id: tokens-a-month, meter: tokens, cap: 50, period: month}
"""


@pytest.fixture
def customer(world):
    """60 of 100 are used."""
    world.book.replace(load_document(DOCUMENT + MORE_PLANS))
    world.put(plan="basic", caps={"tokens": 100})
    world.run(world.poll.poll_once())
    assert world.decide(60).allowed
    return world


def change(world, **terms):
    world.put(**terms)
    assert world.run(world.poll.poll_once()) == 1


def limit(world):
    [line] = world.snapshot().limits()
    return line.used, line.remaining


def test_another_plan_with_the_same_limit_goes_on_counting(customer):
    change(customer, plan="bigger")
    assert limit(customer) == (60, 940)
    assert customer.decide(941).outcome == "stop"
    assert customer.decide(940).allowed


def test_another_plan_with_another_limit_counts_from_now_and_the_way_back_finds_the_old_count(customer):
    change(customer, plan="other")
    assert limit(customer) == (0, 50)
    change(customer, plan="basic")
    assert limit(customer) == (60, 40)


def test_a_cap_below_what_is_used_stops_at_once_and_a_higher_one_resumes(customer):
    change(customer, caps={"tokens": 30})
    assert customer.snapshot().customer_state == "stopped"
    assert customer.decide(1).outcome == "stop"
    change(customer, caps={"tokens": 61})
    assert customer.snapshot().customer_state == "ok"
    assert customer.decide(1).allowed
    assert customer.decide(1).outcome == "stop"


def test_a_suspended_customer_is_refused_until_he_is_active_again(customer):
    change(customer, status="suspended")
    assert customer.decide(1).reason == "customer_suspended"
    change(customer, status="active")
    assert customer.decide(1).allowed


def test_credits_granted_are_there_at_once_and_a_lower_total_takes_them_back(world):
    world.put(plan="prepaid", credits_granted_total=10)
    world.run(world.poll.poll_once())
    assert world.decide(8).allowed
    assert world.decide(3).outcome == "stop"
    world.person.post("/sandbox/v1/customers/acme/credits", json={"amount": 5})
    world.run(world.poll.poll_once())
    assert world.decide(3).allowed
    change(world, credits_granted_total=11)
    assert world.snapshot().customer_state == "stopped"
    assert world.decide(1).outcome == "stop"


def test_a_grant_that_has_expired_is_worth_nothing(world):
    now_us = time.time_ns() // 1000

    def grants(expires_at_us):
        terms = CustomerTerms(
            customer_id="acme", name="Acme", plan="prepaid", credits_granted_total=2,
            grants=(Grant("spring", 5_000_000, expires_at_us),),
        )  # fmt: skip
        assert world.run(world.applier.apply("admin", [terms])) == 1

    grants(now_us + 3_600_000_000)
    assert world.snapshot().limits()[0].remaining == 7_000_000
    grants(now_us - 1)
    assert world.snapshot().limits()[0].remaining == 2_000_000
    assert world.decide(3).outcome == "stop"
    assert world.decide(2).allowed
