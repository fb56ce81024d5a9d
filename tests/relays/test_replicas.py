"""Several daemons at once: the work is divided, one that comes or goes moves little, and one that was paused does no harm."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from house import House, policy_of, quota
from spendgate.keys import PARTITIONS, partition_of
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.replica import JOBS, MARGIN_SECONDS, TTL_SECONDS, Replica
from spendgate_daemon.store.decisions import Decisions

SECOND = 1_000_000
NAMES = [f"partition.{n:03d}" for n in range(PARTITIONS)]
CUSTOMERS = [f"customer-{n}" for n in range(40)]


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    for customer in CUSTOMERS:
        made.contract(policy_of(quota(10_000)), customer=customer)
    yield made
    made.close()


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def shares(store, *replicas, rounds=3):
    """What each holds once all have renewed a few times."""
    held = {}
    for _ in range(rounds):
        for replica in replicas:
            held[replica] = store.leases.divide(replica, NAMES, 10 * SECOND)
    return held


def test_replicas_divide_everything_and_nothing_is_held_twice(store):
    assert set(shares(store, "a")["a"]) == set(NAMES)
    held = shares(store, "a", "b", "c")
    assert sorted(name for each in held.values() for name in each) == NAMES
    assert all(len(each) >= PARTITIONS // 10 for each in held.values())


def test_one_that_comes_or_goes_moves_only_what_is_its_share(store):
    before = shares(store, "a", "b")
    after = shares(store, "a", "b", "c")
    assert set(after["a"]) <= set(before["a"])
    assert set(after["b"]) <= set(before["b"])
    store.leases.leave("c")
    again = shares(store, "a", "b")
    assert {name: set(each) for name, each in again.items()} == {name: set(each) for name, each in before.items()}


def test_a_share_is_taken_over_when_its_time_is_over_and_not_before(store):
    store.leases.divide("gone", NAMES, 3600 * SECOND)
    assert store.leases.divide("b", NAMES, 10 * SECOND) == {}
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE leases SET until_us = 1 WHERE holder = 'gone'")
    assert set(store.leases.divide("b", NAMES, 10 * SECOND)) == set(NAMES)


def test_a_process_that_is_known_to_be_dead_is_not_waited_for(store):
    store.leases.divide("gone", NAMES, 3600 * SECOND)
    taken = store.leases.divide("b", NAMES, 10 * SECOND, lambda holder: holder == "gone")
    assert set(taken) == set(NAMES)
    assert set(taken.values()) == {2}, "each change of hands has a greater fence"


def named_by_a_killed_process():
    """The name of a replica that is no more."""
    place, process = Replica(None).name.partition("/")[0], subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=20)
    return f"{place}/{process.pid}/0"


def test_a_killed_process_of_the_same_place_is_not_waited_for(run, store):
    store.leases.divide(named_by_a_killed_process(), [JOBS, *NAMES], 3600 * SECOND)
    replica = Replica(store)
    run(replica.renew_once())
    assert replica.leads()
    assert len(replica.partitions()) == PARTITIONS


ELSEWHERE = [
    ("pathlib.Path.readlink", "pid:[1]"),
    ("pathlib.Path.read_text", "another boot"),
    ("socket.gethostname", "other"),
]


@pytest.mark.parametrize(("where", "told"), ELSEWHERE)
def test_nobody_is_taken_for_dead_by_a_number_of_another_place(run, store, monkeypatch, where, told):
    """Containers that share the host's name have numbers of their own, and so has a host after it was started again."""
    name = named_by_a_killed_process()
    one, other = Replica(store, name=name), Replica(store, name=f"{name}1")
    monkeypatch.setattr(where, lambda *_: told)
    for each in (one, other, one, other, one):
        run(each.renew_once())
    assert one.leads() != other.leads()
    assert len(one.partitions()) + len(other.partitions()) == PARTITIONS


def test_a_replica_of_a_long_hostname_has_leases(run, store, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 64)
    monkeypatch.setattr("os.getpid", lambda: 2**22)
    replica = Replica(store)
    run(replica.renew_once())
    assert replica.leads()
    assert max(len(each.name) for each in store.leases.all()) <= 64


def test_who_renews_at_once_is_never_given_the_same(store):
    seen, lock = [], threading.Lock()

    def renew(name):
        for _ in range(5):
            held = store.leases.divide(name, NAMES, 60 * SECOND)
            with lock:
                seen.append((name, held))

    threads = [threading.Thread(target=renew, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = {}
    for name, held in seen:
        for lease, fence in held.items():
            assert holders.setdefault((lease, fence), name) == name


def test_a_replica_acts_no_longer_than_its_lease_by_its_own_clock(run, store):
    clock, calls = Clock(), []
    replica = Replica(store, name="a", monotonic=clock)

    async def work():
        calls.append(clock.seconds)
        return 1

    job = replica.led(work)
    assert run(job()) == 0
    run(replica.renew_once())
    assert replica.leads()
    assert len(replica.partitions()) == PARTITIONS
    assert run(job()) == 1
    clock.seconds += TTL_SECONDS - MARGIN_SECONDS
    assert not replica.leads()
    assert replica.partitions() == frozenset()
    assert run(job()) == 0
    assert len(calls) == 1


def test_jobs_are_one_replicas_at_a_time(run, store):
    replicas = [Replica(store, name=f"replica-{n}") for n in range(3)]
    for _ in range(3):
        for replica in replicas:
            run(replica.renew_once())
    assert [replica.leads() for replica in replicas].count(True) == 1
    leader = next(replica for replica in replicas if replica.leads())
    run(leader.leave())
    others = [replica for replica in replicas if replica is not leader]
    for replica in others:
        run(replica.renew_once())
    assert [replica.leads() for replica in others].count(True) == 1
    assert not leader.leads()
    assert JOBS in {lease.name for lease in store.leases.all()}


def test_two_relays_store_everything_once_while_shares_move(store, house, run, control):
    first, second = Replica(store, name="first"), Replica(store, name="second")
    relays = [StoreRelay(control, store, owned=each.partitions) for each in (first, second)]
    total = 0
    for number in range(12):
        for customer in CUSTOMERS:
            house.decide(1, customer=customer)
            total += 1
        if number == 8:
            run(first.leave())
        for replica in [first, second] if 3 <= number < 8 else [first] if number < 3 else [second]:
            run(replica.renew_once())
        for relay in relays:
            run(relay.run_once())
    for _ in range(3):
        run(relays[1].run_once())
    assert run(control.outbox_length()) == 0
    stored = sum(store.usage.total(customer, "tokens", 0, 2**62) for customer in CUSTOMERS)
    assert stored == total


def test_a_relay_that_was_paused_before_it_wrote_does_no_harm(store, house, run, control, monkeypatch):
    for _ in range(5):
        house.decide(10, customer=CUSTOMERS[0])
    paused, other = StoreRelay(control, store), StoreRelay(control, store)
    reads, goes_on = asyncio.Event(), asyncio.Event()
    real = paused._read

    async def read(entries):
        done = await real(entries)
        reads.set()
        await goes_on.wait()
        return done

    monkeypatch.setattr(paused, "_read", read)

    async def play():
        waiting = asyncio.ensure_future(paused.run_once())
        await reads.wait()
        assert await other.run_once() == 5
        goes_on.set()
        return await waiting

    inserted = []
    real_insert = Decisions.insert
    monkeypatch.setattr(
        Decisions, "insert", lambda self, c, rows: (inserted.append(len(rows)), real_insert(self, c, rows))[1]
    )
    assert run(play()) == 0
    assert inserted[0] == 5
    assert store.usage.total(CUSTOMERS[0], "tokens", 0, 2**62) == 50
    house.decide(10, customer=CUSTOMERS[0])
    monkeypatch.undo()
    assert run(paused.run_once()) == 1, "it goes on where the other stood"
    assert store.usage.total(CUSTOMERS[0], "tokens", 0, 2**62) == 60
    assert partition_of(CUSTOMERS[0]) in paused.partitions()
