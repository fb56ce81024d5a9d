"""Runs that outlive their reservation, on a real Redis and on the fake: what they used is counted, and once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from house import policy_of, quota
from spendgate.errors import ReservationFinished
from spendgate.limits import Concurrency
from spendgate.policy import ReservationTerms
from spendgate.testing import FakeGate


@pytest.fixture(autouse=True)
def warnings(caplog):
    caplog.set_level(logging.WARNING, "spendgate.run")
    return caplog


def terms(**fields) -> ReservationTerms:
    return ReservationTerms(lifetime_us=60_000_000, grace_us=30_000_000, **fields)


def contract(stage, *limits, **fields) -> None:
    stage.contract("acme", policy_of(quota(1000), *limits, reservations=terms(**fields)))


def used(stage) -> int:
    line = stage.snapshot("acme").limits()[0]
    assert line.reserved == 0
    return line.used


def test_what_a_late_run_used_is_recorded_though_it_goes_over(stage, warnings):
    contract(stage)
    with stage.reserve("acme", "tokens", 100, event_id="run-1", metadata={"model": "m"}) as run:
        run.add(130)
        stage.clock.advance(seconds=90)
        assert stage.decide("acme", "tokens", 950).allowed, "its room was free again"
    assert used(stage) == 1080
    assert (run.finished.status, run.finished.reason) == ("expired", "expired")
    assert (run.finished.committed, run.finished.actual) == ({"tokens": 130}, {"tokens": 130})
    record = stage.records("acme")[-1]
    assert (record.mode, record.event.quantities, record.event.metadata) == ("record", {"tokens": 130}, {"model": "m"})
    assert record.event.event_id == f"late-{run.decision.decision_id}"
    assert record.event.occurred_at_us == run.decision.effective_at_us
    assert run.finished.record_id == stage.record("acme", "tokens", 130, **of(record.event)).decision_id
    assert "outlived its reservation run-1" in warnings.text


def of(event):
    return {"event_id": event.event_id, "metadata": event.metadata}


def test_a_run_in_its_grace_is_committed_as_ever(stage, warnings):
    contract(stage)
    with stage.reserve("acme", "tokens", 100) as run:
        run.add(130)
        stage.clock.advance(seconds=90, microseconds=-1)
    assert (run.finished.status, used(stage), warnings.text) == ("committed", 130, "")


@pytest.mark.parametrize(("actual", "recorded"), [(130, {"tokens": 30}), (100, None), (40, None)])
def test_what_the_plan_debited_at_the_deadline_is_not_debited_again(stage, actual, recorded):
    contract(stage, at_deadline="commit")
    with stage.reserve("acme", "tokens", 100) as run:
        run.add(actual)
        stage.clock.advance(seconds=90)
    assert used(stage) == max(100, actual)
    assert (run.finished.reason, run.finished.committed) == ("expired_committed", {"tokens": max(100, actual)})
    records = [record.event.quantities for record in stage.records("acme") if record.mode == "record"]
    assert records == ([recorded] if recorded else [])


def test_a_plan_that_caps_at_what_was_reserved_does_so_later_too(stage):
    contract(stage, above="cap")
    with stage.reserve("acme", "tokens", 100) as run:
        run.add(130)
        stage.clock.advance(seconds=90)
    assert (used(stage), run.finished.committed) == (100, {"tokens": 100})


@pytest.mark.parametrize("above", ["reject", "overage"])
def test_otherwise_all_of_it_is_counted(stage, above):
    contract(stage, above=above)
    with stage.reserve("acme", "tokens", 100) as run:
        run.add(130)
        stage.clock.advance(seconds=90)
    assert used(stage) == 130


def test_a_late_run_that_used_nothing_raises_nothing_and_records_nothing(stage):
    contract(stage, Concurrency(id="open", meters=("tokens",), max=1))
    with stage.reserve("acme", "tokens", 100) as run:
        stage.clock.advance(seconds=90)
    assert (run.finished.status, run.finished.committed, used(stage)) == ("expired", {}, 0)
    assert stage.records("acme")[-1].mode == "expire"


def test_one_that_ended_so_long_ago_that_how_is_forgotten_is_recorded_too(stage):
    contract(stage)
    with stage.reserve("acme", "tokens", 100) as run:
        run.add(70)
        stage.clock.advance(hours=3)
        stage.sweep()
        forget(stage)
    assert (run.finished.status, used(stage)) == ("expired", 70)


def forget(stage) -> None:
    if hasattr(stage, "redis"):
        stage.redis.generation += 2
    else:
        for key in stage.client.keys("*ended*"):
            stage.client.delete(key)


def test_the_error_of_the_block_is_what_the_caller_gets(stage):
    contract(stage)

    def work():
        with stage.reserve("acme", "tokens", 100) as run:
            run.add(70)
            stage.clock.advance(seconds=90)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()
    assert used(stage) == 70


@pytest.mark.parametrize("end", ["release", "commit"])
def test_where_somebody_else_ended_it_nobody_can_say_what_is_true(stage, end):
    contract(stage)

    def work():
        with stage.reserve("acme", "tokens", 100) as run:
            run.add(70)
            stage.release(run.reservation_id) if end == "release" else stage.commit(run.reservation_id, 5)

    with pytest.raises(ReservationFinished):
        work()
    assert used(stage) == (0 if end == "release" else 5)


def test_a_guarded_coroutine_that_lasts_too_long_is_recorded():
    gate = FakeGate(policy_of(quota(1000), reservations=terms()))
    gate.contract("acme")

    @gate.guard(customer="customer_id", meter="tokens", quantity=100, used=len)
    async def answer(customer_id):
        gate.clock.advance(seconds=90)
        return "x" * 130

    async def scenario():
        await answer("acme")
        return (await gate.snapshot("acme")).limits()[0]

    line = asyncio.run(scenario())
    assert (line.used, line.reserved) == (130, 0)
