"""Several processes write policy state: Redis and the store keep the same one of them, whoever comes last."""

from __future__ import annotations

import pytest

from mirror_world import now_us
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.terms import CustomerTerms


def terms(**fields):
    return [CustomerTerms(**{"customer_id": "acme", "name": "Acme", "plan": "basic"} | fields)]


class Killed(Exception):
    """In the place of SIGKILL."""


class Paused:
    """Control of a process that is paused before it writes, or killed after it."""

    def __init__(self, control, meanwhile=None, *, killed=False):
        self.control, self.meanwhile, self.killed = control, meanwhile, killed

    async def put_states(self, writes):
        if self.meanwhile is not None:
            await self.meanwhile()
        answers = await self.control.put_states(writes)
        if self.killed:
            raise Killed
        return answers

    async def put_default(self, policy):
        await self.control.put_default(policy)


def paused(world, source, given):
    """Another daemon's applier, and what somebody else writes between its reading and its writing."""
    return Applier(Paused(world.control, lambda: world.applier.apply(source, given)), world.store, world.book, now_us)


def both(world):
    state, stored = world.snapshot().state, world.store.customers.get("acme").customer
    assert (state.source, state.version, state.status, state.caps, state.policy) == (
        stored.source, stored.version, stored.status, stored.caps, stored.policy_digest,
    )  # fmt: skip
    return state.source, state.version, state.status, state.caps


def test_an_administrators_word_that_comes_while_a_poll_writes_stays(world):
    world.run(world.applier.apply("usagebox", terms(version=3, caps={"tokens": 100})))
    daemon = paused(world, "admin", terms(caps={"tokens": 5}, status="suspended"))
    assert world.run(daemon.apply("usagebox", terms(version=7, caps={"tokens": 200}))) == 0
    assert both(world) == ("admin", 4, "suspended", {"tokens": 5})


def test_a_daemon_that_wakes_up_late_writes_nothing_older(world):
    world.run(world.applier.apply("usagebox", terms(version=3, caps={"tokens": 100})))
    daemon = paused(world, "usagebox", terms(version=9, caps={"tokens": 900}))
    assert world.run(daemon.apply("usagebox", terms(version=4, caps={"tokens": 400}))) == 0
    assert both(world) == ("usagebox", 9, "active", {"tokens": 900})


def test_a_daemon_that_wakes_up_late_cancels_nobody_who_changed(world):
    world.run(world.applier.apply("usagebox", terms(version=3)))
    daemon = paused(world, "usagebox", terms(version=4, caps={"tokens": 7}))
    assert world.run(daemon.cancel("usagebox", ["acme"])) == 0
    assert both(world) == ("usagebox", 4, "active", {"tokens": 7})


def test_a_recompile_that_is_overtaken_leaves_what_came(world):
    world.run(world.applier.apply("usagebox", terms(version=3, caps={"tokens": 100})))
    world.change_document("cap: contract", "cap: contract, floor: 1")
    daemon = paused(world, "admin", terms(caps={"tokens": 5}))
    assert world.run(daemon.recompile()) == 0
    assert both(world) == ("admin", 4, "active", {"tokens": 5})


def test_an_administrator_sets_an_older_version_right(world):
    world.run(world.applier.apply("usagebox", terms(version=9, caps={"tokens": 900})))
    assert world.run(world.applier.apply("admin", terms(version=2, caps={"tokens": 5}))) == 1
    assert both(world) == ("admin", 2, "active", {"tokens": 5})


def test_what_a_kill_kept_from_the_store_is_stored_when_it_comes_again(world):
    world.run(world.applier.apply("usagebox", terms(version=3, caps={"tokens": 100})))
    killed = Applier(Paused(world.control, killed=True), world.store, world.book, now_us)
    with pytest.raises(Killed):
        world.run(killed.apply("usagebox", terms(version=4, caps={"tokens": 400})))
    assert world.store.customers.get("acme").customer.version == 3
    world.run(world.applier.apply("usagebox", terms(version=4, caps={"tokens": 400})))
    assert both(world) == ("usagebox", 4, "active", {"tokens": 400})


def test_a_clock_that_is_behind_writes_all_the_same(world):
    world.run(world.applier.apply("usagebox", terms(version=3)))
    behind = Applier(world.control, world.store, world.book, lambda: now_us() - 60_000_000)
    assert world.run(behind.cancel("usagebox", ["acme"])) == 1
    assert both(world)[2] == "cancelled"
