"""Redis loses a tail that the store has: it is found, mended, and nobody can spend twice what was spent."""

from __future__ import annotations

import contextlib
import time

import pytest

from house import House, credits_limit, policy_of, quota, state_of
from spendgate.errors import BacklogFull, NotPrepared
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.limits import Concurrency
from spendgate_daemon.relays.duplicates import LateDuplicates
from spendgate_daemon.relays.store_relay import ROUNDS_BETWEEN_CHECKS, StoreRelay
from spendgate_daemon.restore.tails import LostTails
from spendgate_daemon.store.customers import Customer
from spendgate_daemon.wiring import take_back

TAG = tag_of(partition_of("acme"))


def clock_us():
    return time.time_ns() // 1000


class Site:
    """A Redis that can be put back to an earlier moment, with its store, relay and mender."""

    def __init__(self, house, store):
        self.house, self.store, self.run = house, store, house.run
        self.relay = StoreRelay(house.control, store)
        self.tails = LostTails(house.control, store, self.relay, clock_us)
        self.kept = {}

    def contract(self, policy, customer="acme", **fields):
        self.house.contract(policy, customer=customer, **fields)
        self.store.policies.save_effective({policy.digest: policy.encode()})
        state = state_of(policy, **fields)
        granted = state.granted_micro_credits
        known = Customer(
            customer_id=customer,
            name=customer,
            plan=state.plan,
            status=state.status,
            version=state.version,
            source="admin",
            policy_digest=policy.digest,
            updated_at_us=0,
            granted_micro_credits=granted,
        )
        self.store.customers.save([known])

    def drain(self):
        while self.run(self.relay.run_once()):
            pass

    def keep(self):
        """As a replica has it that gets nothing more."""
        keys = self.house.redis.keys()
        self.kept = {key: self.house.redis.dump(key) for key in keys}

    def fail_over(self):
        self.house.redis.flushall()
        for key, dumped in self.kept.items():
            self.house.redis.restore(key, 0, dumped)

    @property
    def mended(self):
        return not self.relay.behind and not self.store.cursors.starting_with("lost-tail.")

    def find(self):
        """Run the relay until it finds the loss."""
        for _ in range(2 * ROUNDS_BETWEEN_CHECKS):
            self.run(self.relay.run_once())
            if self.relay.behind:
                return
        raise AssertionError("the loss was never found")

    def mend(self):
        """Relay and mender by turns, as the daemon runs them, until nothing is left to do."""
        for _ in range(200):
            self.run(self.tails.run_once())
            self.run(self.relay.run_once())
            if self.mended:
                self.drain()
                return
        raise AssertionError("the tail was never mended")

    def used(self, customer="acme"):
        return {line.id: line.used for line in self.run(self.house.gate.snapshot(customer)).limits()}

    def reserved(self, customer="acme"):
        return {line.id: line.reserved for line in self.run(self.house.gate.snapshot(customer)).limits()}


@pytest.fixture
def site(run, control, gate, redis_url, store):
    house = House(run, control, gate, redis_url)
    made = Site(house, store)
    made.contract(policy_of(quota(1000), credits_limit()), granted_micro_credits=100_000)
    yield made
    house.close()


def test_what_the_store_has_and_redis_forgot_is_counted_again(site):
    site.house.decide(100)
    site.drain()
    site.keep()
    for number in range(3):
        site.house.decide(50, event_id=f"lost-{number}")
    site.drain()
    site.fail_over()
    assert site.used()["tokens-day"] == 100
    site.find()
    site.mend()
    assert site.used() == {"tokens-day": 250, "wallet": 2500}
    assert site.house.decide(750).outcome == "allow"
    assert site.house.decide(1).outcome == "stop"


def test_what_was_decided_since_the_loss_is_kept_beside_it(site):
    site.house.decide(100)
    site.drain()
    site.keep()
    site.house.decide(50, event_id="lost")
    site.drain()
    site.fail_over()
    since = [site.house.decide(20, event_id=f"since-{number}") for number in range(4)]
    assert all(each.outcome == "allow" for each in since)
    site.find()
    site.mend()
    assert site.used() == {"tokens-day": 230, "wallet": 2300}
    assert site.store.usage.total("acme", "tokens", 0, 2**62) == 230, "all of it is stored, nothing twice"
    numbers = [item.decision_id for item in site.store.decisions.page(limit=100).items]
    assert len(numbers) == len(set(numbers)) == 6


def test_an_event_that_redis_forgot_is_known_again(site):
    site.house.decide(1)
    site.drain()
    site.keep()
    first = site.house.decide(50, event_id="lost")
    site.drain()
    site.fail_over()
    site.find()
    site.mend()
    again = site.house.decide(50, event_id="lost")
    assert (again.status, again.decision_id) == ("duplicate", first.decision_id)
    assert site.used()["tokens-day"] == 51


def test_an_event_that_was_sent_again_after_the_loss_is_debited_once(site):
    site.house.decide(1)
    site.drain()
    site.keep()
    site.house.decide(50, event_id="lost")
    site.drain()
    site.fail_over()
    assert site.house.decide(50, event_id="lost").status == "decided"
    site.find()
    site.mend()
    duplicates = LateDuplicates(site.store, take_back(site.house.control, site.store))
    assert site.run(duplicates.run_once()) == 1
    site.drain()
    assert site.used()["tokens-day"] == 51
    assert site.store.usage.total("acme", "tokens", 0, 2**62) == 51


def test_nothing_is_decided_while_the_tail_is_missing(site):
    site.house.decide(1)
    site.drain()
    site.keep()
    site.house.decide(50)
    site.drain()
    site.fail_over()
    site.find()
    site.run(site.tails._begin(partition_of("acme")))
    with pytest.raises(BacklogFull):
        site.house.decide(1)
    site.mend()
    assert site.house.decide(1).outcome == "allow"


def test_nothing_is_written_while_the_tail_is_missing(site):
    held = site.run(site.house.gate.reserve("acme", "tokens", 100).__aenter__())
    site.drain()
    site.run(site.tails._restorer.degrade(partition_of("acme")))
    before = site.house.redis.xlen(f"{TAG}outbox"), site.house.redis.hgetall(counters_key("acme"))
    with pytest.raises(BacklogFull):
        site.run(site.house.gate.commit(held.reservation_id, 70))
    with pytest.raises(BacklogFull):
        site.contract(policy_of(quota(1000)), version=2, status="suspended")
    assert (site.house.redis.xlen(f"{TAG}outbox"), site.house.redis.hgetall(counters_key("acme"))) == before


def test_nothing_is_trimmed_where_redis_has_another_record(site):
    for _ in range(3):
        site.house.decide(1)
    partition, control = partition_of("acme"), site.house.control
    entries = site.run(control.read_outbox({partition: "0-0"}, 10))
    (_, second, record), (_, third, _) = entries[1:]
    assert site.run(control.trim_outbox(partition, third, record)) is False
    assert site.run(control.trim_outbox(partition, f"{third}0", record)) is False
    assert site.house.redis.xlen(f"{TAG}outbox") == 3
    assert site.run(control.trim_outbox(partition, second, record)) is True
    assert site.house.redis.xlen(f"{TAG}outbox") == 2, "the last that is stored stays"


def test_reservations_that_redis_forgot_are_open_again_and_those_that_ended_are_not(site):
    site.contract(policy_of(quota(1000), Concurrency("open", ("tokens",), max=3)), version=2)
    ended = site.run(site.house.gate.reserve("acme", "tokens", 100).__aenter__())
    site.drain()
    site.keep()
    opened = site.run(site.house.gate.reserve("acme", "tokens", 200).__aenter__())
    site.run(site.house.gate.commit(ended.reservation_id, 70))
    site.drain()
    site.fail_over()
    assert site.reserved()["tokens-day"] == 100
    site.find()
    site.mend()
    assert site.reserved()["tokens-day"] == 200
    assert site.used()["tokens-day"] == 70
    assert site.run(site.house.gate.commit(ended.reservation_id, 70)).duplicate
    site.run(site.house.gate.commit(opened.reservation_id, 150))
    assert site.used()["tokens-day"] == 220
    assert site.reserved()["tokens-day"] == 0


def test_a_loss_is_found_although_redis_has_caught_up_in_number(site):
    site.house.decide(1)
    site.drain()
    site.keep()
    for _ in range(3):
        site.house.decide(10)
    site.drain()
    site.fail_over()
    for _ in range(5):
        site.house.decide(2)
    site.find()
    site.mend()
    assert site.used()["tokens-day"] == 41
    assert site.store.usage.total("acme", "tokens", 0, 2**62) == 41


def test_what_another_replica_stored_and_trimmed_is_not_lost(site):
    site.house.decide(1)
    site.drain()
    other = StoreRelay(site.house.control, site.store)
    for _ in range(3):
        site.house.decide(10)
    while site.run(other.run_once()):
        pass
    for _ in range(2 * ROUNDS_BETWEEN_CHECKS):
        site.run(site.relay.run_once())
        assert not site.relay.behind
    site.house.decide(100)
    site.drain()
    assert site.store.usage.total("acme", "tokens", 0, 2**62) == 131


@pytest.mark.parametrize("after", ["degrade", "begin_epoch", "restore"])
def test_a_kill_in_the_middle_of_mending_costs_a_repetition(site, after, monkeypatch):
    site.house.decide(100)
    site.drain()
    site.keep()
    site.house.decide(50, event_id="lost")
    site.drain()
    site.fail_over()
    site.house.decide(20, event_id="since")
    real, killed = getattr(site.tails._restorer, after), []

    async def once(*arguments):
        done = await real(*arguments)
        if not killed:
            killed.append(True)
            raise ConnectionResetError
        return done

    target = site.tails._customers._restorer if after == "restore" else site.tails._restorer
    monkeypatch.setattr(target, after, once)
    for _ in range(400):
        try:
            site.run(site.relay.run_once())
            site.run(site.tails.run_once())
        except ConnectionResetError:
            site.relay = StoreRelay(site.house.control, site.store)
            site.tails = LostTails(site.house.control, site.store, site.relay, clock_us)
        if killed and site.mended:
            break
    site.mend()
    assert killed
    assert site.used() == {"tokens-day": 170, "wallet": 1700}
    assert site.store.usage.total("acme", "tokens", 0, 2**62) == 170


def test_a_partition_that_cannot_be_mended_holds_up_no_other(site, monkeypatch):
    first, second = sorted(("acme", "other"), key=partition_of)
    assert partition_of(first) != partition_of(second)
    site.contract(policy_of(quota(1000)), customer="other")
    for customer in (first, second):
        site.house.decide(100, customer=customer)
    site.drain()
    site.keep()
    for customer in (first, second):
        site.house.decide(50, customer=customer)
    site.drain()
    site.fail_over()
    restore = site.tails._customers.restore

    async def restored(customer_id, *arguments, **options):
        if customer_id == first:
            raise NotPrepared("the store has no policy of it")
        return await restore(customer_id, *arguments, **options)

    monkeypatch.setattr(site.tails._customers, "restore", restored)
    site.find()
    for _ in range(20):
        with contextlib.suppress(NotPrepared):
            site.run(site.tails.run_once())
        site.run(site.relay.run_once())
    assert site.store.cursors.starting_with("lost-tail.").keys() == {f"lost-tail.{partition_of(first):03d}"}
    assert site.used(second)["tokens-day"] == 150
    monkeypatch.undo()
    site.mend()
    assert site.used(first)["tokens-day"] == 150
