"""What the verifier looks for: a record of an end that says anything else than its plan does."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from house import policy_of, quota
from spendgate.policy import ReservationTerms
from spendgate.record import agrees
from spendgate.testing import FakeGate

HELD = 100


def ended(action, above="overage", at_deadline="release", used=None):
    """The record of a reservation of HELD tokens that ended so, and its policy."""
    terms = ReservationTerms(above=above, at_deadline=at_deadline)
    policy = policy_of(quota(1000), reservations=terms)
    gate = FakeGate(policy)
    gate.contract("acme")

    async def play():
        event = gate.reserve("acme", "tokens", HELD)._event
        decision = await gate.submit(event, mode="reserve")
        if action == "commit":
            await gate.commit(decision.reservation_id, used)
        elif action == "release":
            await gate.release(decision.reservation_id)
        else:
            gate.clock.advance(hours=1)
            gate.sweep()

    asyncio.run(play())
    return next(record for record in gate.records("acme") if record.kind == "finish"), policy


def with_facts(record, **changes):
    return msgspec.structs.replace(record, reservation=msgspec.structs.replace(record.reservation, **changes))


ENDS = {
    "committed": ("commit", "overage", "release", 60),
    "committed more": ("commit", "overage", "release", 150),
    "committed nothing": ("commit", "overage", "release", 0),
    "capped": ("commit", "cap", "release", 150),
    "committed all": ("commit", "reject", "release", 100),
    "released": ("release", "overage", "release", None),
    "expired": ("expire", "overage", "release", None),
    "expired as reserved": ("expire", "overage", "commit", None),
}


@pytest.mark.parametrize("name", ENDS)
def test_real_ends_agree(name):
    assert agrees(*ended(*ENDS[name]))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("committed", {"committed": (("tokens", 59),)}),
        ("committed", {"committed": ()}),
        ("committed", {"actual": (("tokens", 61),)}),
        ("committed nothing", {"committed": (("tokens", 1),)}),
        ("capped", {"committed": (("tokens", 150),)}),
        ("committed all", {"actual": (("tokens", 101),), "committed": (("tokens", 101),)}),
        ("released", {"committed": (("tokens", 1),)}),
        ("released", {"actual": (("tokens", 1),)}),
        ("expired", {"committed": (("tokens", HELD),)}),
        ("expired", {"deadline_us": 2**52}),
        ("expired as reserved", {"committed": (("tokens", HELD - 1),)}),
        ("expired as reserved", {"committed": ()}),
    ],
)
def test_an_end_that_says_otherwise_does_not(name, changes):
    record, policy = ended(*ENDS[name])
    assert not agrees(with_facts(record, **changes), policy)


def test_an_end_under_a_plan_that_ends_it_otherwise_does_not():
    record, policy = ended(*ENDS["expired as reserved"])
    assert not agrees(record, msgspec.structs.replace(policy, reservations=ReservationTerms(at_deadline="release")))
    record, policy = ended(*ENDS["committed more"])
    assert not agrees(record, msgspec.structs.replace(policy, reservations=ReservationTerms(above="reject")))


def test_thresholds_of_an_end_are_compared():
    record, policy = ended("commit", used=900)
    assert record.result.crossed == (("tokens-day", "80%"),)
    silent = msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, crossed=()))
    assert agrees(record, policy)
    assert not agrees(silent, policy)


def test_a_reservation_that_has_not_ended_is_no_end():
    record, policy = ended("release")
    assert not agrees(msgspec.structs.replace(record, reservation=None), policy)
