"""The gate on a real Redis Cluster of three nodes: decisions, reservations, the sweep, the writing side and the outbox."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from clusters import running_cluster
from house import DENY_UNKNOWN, policy_of, quota, state_of
from redis_servers import SERVER_NAMES, find_redis_servers
from requirements import require
from spendgate import Gate, SyncGate
from spendgate.control import STREAM_START, Control
from spendgate.event import usage_event
from spendgate.keys import PARTITIONS, counters_key, partition_of
from spendgate.policy import ReservationTerms
from spendgate.record import decode_record
from spendgate.state import Override

CUSTOMERS = [f"customer-{number}" for number in range(60)]
START = dict.fromkeys(range(PARTITIONS), STREAM_START)
POLICY = policy_of(quota(100), reservations=ReservationTerms(lifetime_us=1, grace_us=0))


@pytest.fixture(scope="module", params=SERVER_NAMES)
def cluster_url(request, tmp_path_factory):
    servers = find_redis_servers()
    require(request.param, found=request.param in servers)
    with running_cluster(servers[request.param], tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster.url


@pytest.fixture
def control(cluster_url, run):
    made = Control.from_url(cluster_url)
    run(made.prepare())
    run(made.redis.flushall(target_nodes="primaries"))
    run(made.prepare())
    run(made.put_default(DENY_UNKNOWN))
    yield made
    run(made.aclose())


@pytest.fixture
def gate(cluster_url, control, run):
    made = Gate.from_url(cluster_url, timeout_seconds=5)
    yield made
    run(made.aclose())


def read_records(control, run):
    entries, cursors = [], START
    while found := run(control.read_outbox(cursors, 7)):
        entries += found
        cursors = cursors | {partition: stream_id for partition, stream_id, _ in found}
    return [decode_record(raw) for _, _, raw in entries]


def test_all_of_the_gate_works_on_a_cluster(cluster_url, control, gate, run):
    assert run(control.prepare()) == run(control.prepare())
    for customer in CUSTOMERS:
        assert run(control.put_state(customer, state_of(POLICY), POLICY))

    async def all_at_once():
        asked = (
            gate.decide(customer, "tokens", 10, event_id=f"event-{n}") for customer in CUSTOMERS for n in range(12)
        )
        return await asyncio.gather(*asked)

    outcomes = Counter(decision.outcome for decision in run(all_at_once()))
    assert outcomes == {"allow": 10 * len(CUSTOMERS), "stop": 2 * len(CUSTOMERS)}
    assert run(gate.decide(CUSTOMERS[0], "tokens", 10, event_id="event-0")).duplicate
    records = read_records(control, run)
    used = Counter(record.customer_id for record in records if record.result.outcome == "allow" and record.event)
    assert used == dict.fromkeys(CUSTOMERS, 10)
    for snapshot in run(gate.snapshots(CUSTOMERS)):
        assert (snapshot.limits()[0].used, snapshot.customer_state) == (100, "stopped")
    with SyncGate.from_url(cluster_url, timeout_seconds=5) as sync:
        assert sync.decide(CUSTOMERS[1], "tokens", 10, event_id="event-1").duplicate


def test_reservations_are_ended_and_swept_on_every_node(control, gate, run):
    for customer in CUSTOMERS:
        run(control.put_state(customer, state_of(POLICY), POLICY))
        event = usage_event(customer, "tokens", 30, event_id="run")
        held = run(gate.submit(event, mode="reserve", lifetime_seconds=600)).reservation_id
        assert run(gate.reservations(customer))[1] == 1
        assert run(gate.extend(held, 700)).status == "open"
        assert run(gate.commit(held, 20)).committed == {"tokens": 20}
        run(gate.submit(usage_event(customer, "tokens", 40, event_id="lost"), mode="reserve"))
    for partition in range(PARTITIONS):
        run(control.sweep(partition))
    for snapshot in run(gate.snapshots(CUSTOMERS)):
        assert (snapshot.limits()[0].used, snapshot.limits()[0].reserved) == (20, 0)
    ends = Counter(record.mode for record in read_records(control, run) if record.kind == "finish")
    assert ends == {"extend": len(CUSTOMERS), "commit": len(CUSTOMERS), "expire": len(CUSTOMERS)}


def test_counters_are_compared_with_reservations_on_every_node(control, gate, run):
    for customer in CUSTOMERS:
        run(control.put_state(customer, state_of(POLICY), POLICY))
        run(gate.submit(usage_event(customer, "tokens", 30, event_id="run"), mode="reserve", lifetime_seconds=600))
        run(control.redis.hdel(counters_key(customer), "quota:tokens-day"))

    async def found():
        return [customer async for customer in control.customers_with_counters(10)]

    assert set(run(found())) == set(CUSTOMERS)
    for customer in CUSTOMERS:
        assert run(control.repair_reserved(customer)).counters == 1
    assert run(control.not_open([(customer, "run") for customer in CUSTOMERS])) == [None] * len(CUSTOMERS)
    places = run(control.not_open([(customer, "other") for customer in CUSTOMERS]))
    assert all(sequence >= 2 for _, sequence in places)


def test_the_writing_side_and_its_streams_reach_every_node(control, gate, run):
    for customer in CUSTOMERS:
        run(control.put_state(customer, state_of(POLICY), POLICY))
        start = run(gate.snapshot(customer)).limits()[0].period_start_seconds
        assert run(control.put_external(customer, "tokens-day", start, 95, 10))
        assert not run(gate.decide(customer, "tokens", 6)).allowed
        assert run(control.put_overrides(customer, [Override("o1", "let_pass", 9 * 10**15, 6)], 1))
        assert run(gate.decide(customer, "tokens", 6)).reason == "allowed_by_override"
        run(control.hint(customer))
    run(control.mark_mirrored(1))
    run(control.ping())
    assert {raw.decode() for _, _, raw in run(control.read_hints(START))} == set(CUSTOMERS)
    assert {raw.decode() for _, _, raw in run(control.read_feed(START, block_ms=1000))} == set(CUSTOMERS)
    assert run(control.get_policy(partition_of(CUSTOMERS[0]), POLICY.digest)) == POLICY

    async def wait_for_a_hint():
        ends = {partition: stream_id for partition, stream_id, _ in await control.read_hints(START)}
        waiting = asyncio.ensure_future(control.read_hints({**START, **ends}, block_ms=20_000))
        await control.hint("somebody")
        return await waiting

    assert [raw for _, _, raw in run(wait_for_a_hint())] == [b"somebody"]
    length = run(control.outbox_length())
    for partition, stream_id, record in run(control.read_outbox(START, 10_000)):
        assert run(control.trim_outbox(partition, stream_id, record))
    assert length > 0
    assert run(control.outbox_length()) == 0
