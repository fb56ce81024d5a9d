"""Everybody read again: who is gone is cancelled, never silently kept, and never by a partial answer."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from mirror_world import World
from recorded_usagebox import RecordedUsageBox, Reply
from serving import serve
from spendgate_daemon.mirror.terms import CustomerTerms
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.store import Store
from spendgate_daemon.usagebox import UsageBox, UsageBoxUnavailable

POLICIES = "/api/v1/policies"


def count(name):
    return REGISTRY.get_sample_value(f"spendgate_mirror_{name}") or 0


def status(world, customer):
    return world.snapshot(customer).state.status


def remove(world, customer):
    assert world.person.delete(f"/sandbox/v1/customers/{customer}").json() == {"removed": True}


@pytest.fixture
def people(world):
    for customer in ("a", "b", "c"):
        world.put(customer, plan="basic", caps={"tokens": 100})
    world.run(world.poll.poll_once())
    return world


def test_who_is_gone_is_cancelled_by_the_second_complete_answer_and_kept(people):
    people.run(people.resync.run_once())
    remove(people, "b")
    assert people.run(people.resync.run_once()) == 0
    assert (status(people, "b"), count("missing_customers")) == ("active", 1)
    people.run(people.poll.poll_once())
    assert status(people, "b") == "active", "no poll says who is gone"
    assert people.run(people.resync.run_once()) == 1
    assert [status(people, customer) for customer in "abc"] == ["active", "cancelled", "active"]
    assert people.decide(1, customer="b").reason == "customer_cancelled"
    assert people.store.customers.get("b").customer.status == "cancelled"
    assert people.run(people.resync.run_once()) == 0, "once"


def test_an_empty_answer_cancels_nobody_however_few_there_are(people):
    for customer in "abc":
        remove(people, customer)
    for _ in range(3):
        people.run(people.resync.run_once())
    assert [status(people, customer) for customer in "abc"] == ["active"] * 3


def test_who_is_named_again_is_back(people):
    remove(people, "b")
    for _ in range(2):
        people.run(people.resync.run_once())
    assert status(people, "b") == "cancelled"
    people.put("b", plan="basic", caps={"tokens": 100})
    assert people.run(people.poll.poll_once()) == 1, "the same version and contract as before he was gone"
    assert people.decide(1, customer="b").allowed


def test_who_was_missing_once_and_is_there_again_begins_anew(people):
    remove(people, "b")
    people.run(people.resync.run_once())
    people.put("b", plan="basic", caps={"tokens": 100})
    people.run(people.resync.run_once())
    remove(people, "b")
    people.run(people.resync.run_once())
    assert status(people, "b") == "active"


def test_customers_of_other_sources_are_not_usagebox_s_to_remove(people):
    people.run(people.applier.apply("admin", [CustomerTerms(customer_id="own", name="Own", plan="basic")]))
    for _ in range(3):
        people.run(people.resync.run_once())
    assert status(people, "own") == "active"


def page(*customers, cursor):
    states = [{"customer_id": c, "name": c, "plan": "basic", "status": "active", "version": 1} for c in customers]
    return Reply({"policies": states, "next_cursor": cursor})


@pytest.fixture
def recorded_world(run, control, gate, tmp_path):
    """A mirror of a UsageBox that answers what the test says."""
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    recorded = RecordedUsageBox()
    with serve(recorded) as url:
        made = World(run, control, gate, store, url)
        made.recorded = recorded
        yield made
        made.person.close()
        run(made.usagebox.aclose())
    store.close()


CROWD = [f"c{number}" for number in range(40)]


def test_an_answer_that_breaks_off_cancels_nobody(recorded_world):
    world = recorded_world
    world.recorded.on(POLICIES, [page(*CROWD, cursor="1"), page(cursor="1")])
    world.run(world.resync.run_once())
    for _ in range(3):
        world.recorded.on(POLICIES, [page(*CROWD[:35], cursor="1"), Reply("Internal server error: disk", 500)])
        with pytest.raises(UsageBoxUnavailable):
            world.run(world.resync.run_once())
    assert all(status(world, customer) == "active" for customer in CROWD)


@pytest.mark.parametrize("left", [[], CROWD[:29]])
def test_an_answer_that_leaves_out_many_is_taken_for_a_partial_one_and_cancels_nobody(recorded_world, left):
    world = recorded_world
    world.recorded.on(POLICIES, [page(*CROWD, cursor="1"), page(cursor="1")])
    world.run(world.resync.run_once())
    before = count("partial_resyncs_total")
    for _ in range(3):
        world.recorded.on(POLICIES, [page(*left, cursor="1"), page(cursor="1")])
        world.run(world.resync.run_once())
    assert all(status(world, customer) == "active" for customer in CROWD)
    assert count("partial_resyncs_total") == before + 3


def test_a_few_may_go_at_once(recorded_world):
    world = recorded_world
    for left in (CROWD, CROWD[:30], CROWD[:30]):
        world.recorded.on(POLICIES, [page(*left, cursor="1"), page(cursor="1")])
        world.run(world.resync.run_once())
    assert [status(world, customer) for customer in CROWD] == ["active"] * 30 + ["cancelled"] * 10


def test_policies_that_are_gone_altogether_cancel_nobody(recorded_world):
    world = recorded_world
    world.recorded.on(POLICIES, [page(*CROWD, cursor="1"), page(cursor="1")])
    world.run(world.resync.run_once())
    world.recorded.replies.clear()
    for _ in range(3):
        world.run(world.resync.run_once())
    assert all(status(world, customer) == "active" for customer in CROWD)


def test_whoever_comes_while_everybody_is_read_is_not_missing(recorded_world):
    world = recorded_world
    end = page(cursor="1")
    end.waits = True
    world.recorded.on(POLICIES, [page(*CROWD, cursor="1"), end])

    async def comes_meanwhile():
        reading = asyncio.create_task(world.resync.run_once())
        await asyncio.to_thread(world.recorded.arrived.wait, 20)
        await world.applier.apply("usagebox", [CustomerTerms(customer_id="new", name="New", plan="basic", version=1)])
        world.recorded.released.set()
        return await reading

    assert world.run(comes_meanwhile()) == len(CROWD)
    assert (status(world, "new"), count("missing_customers")) == ("active", 0)


def test_a_usagebox_restored_from_a_backup_is_followed_from_where_it_stands(world, tmp_path):
    for cap in range(1, 6):
        world.put(plan="basic", caps={"tokens": cap})
        world.run(world.poll.poll_once())
    with serve(create_sandbox(tmp_path / "backup.sqlite", key=None)) as url:

        async def restored():
            async with UsageBox(url, None) as usagebox:
                world.poll._usagebox = usagebox
                world.resync._usagebox = usagebox
                await world.poll.poll_once()
                await world.resync.run_once()
                await asyncio.to_thread(world.person_at, url, "later", plan="basic", caps={"tokens": 7})
                return await world.poll.poll_once()

        assert world.run(restored()) == 1
    assert world.snapshot("later").policy.limits[0].cap == 7


def test_a_catalog_is_the_whole_answer_and_an_active_subscription_wins(run, control, gate, tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None, with_policies=False)) as url:
        world = World(run, control, gate, store, url)
        for number, (customer, state) in enumerate(
            [("a", "active"), ("a", "cancelled"), ("b", "cancelled"), ("c", "active")]
        ):
            body = {"id": f"s{number}", "customer_id": customer, "plan_id": "basic", "starts_at": "2026-01-01"}
            assert world.person.post("/api/v1/subscriptions", json=body | {"status": state}).status_code == 201
        assert run(world.resync.run_once()) == 3
        assert [status(world, customer) for customer in "abc"] == ["active", "cancelled", "active"]
        assert world.snapshot("a").state.source == "catalog"
        assert run(world.poll.poll_once()) == 0
        world.person.close()
        run(world.usagebox.aclose())
    store.close()


def test_more_than_a_batch_is_applied_whole_and_recompiled_whole(world, monkeypatch):
    monkeypatch.setattr("spendgate_daemon.mirror.apply.BATCH", 7)
    terms = [
        CustomerTerms(customer_id=f"c{number}", name="C", plan="basic", caps={"tokens": number}, version=1)
        for number in range(50)
    ]
    assert world.run(world.applier.apply("usagebox", [*terms, *terms])) == 50
    assert world.run(world.applier.apply("usagebox", terms)) == 0
    assert [world.snapshot(f"c{number}").policy.limits[0].cap for number in range(50)] == list(range(50))
    world.change_document(old="cap: contract", new="cap: contract, floor: 1")
    assert world.run(world.applier.recompile()) == 50
