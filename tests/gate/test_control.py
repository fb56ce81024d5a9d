"""The writing side: what it tells of a Redis that fails, and that what is refused leaves nothing."""

from __future__ import annotations

import time

import msgspec
import pytest
import redis

from clusters import running_sentinel, until
from house import DENY_UNKNOWN, policy_of, quota, state_of
from redis_servers import find_redis_servers, free_port, start_redis, stop
from requirements import require
from spendgate import GateUnavailable, NotPrepared
from spendgate.control import STREAM_START, Control
from spendgate.errors import ScriptFailed
from spendgate.keys import partition_of, tag_of
from spendgate.state import Override
from spendgate.testing import FakeGate

POLICY = policy_of(quota(1000))
TAG = tag_of(partition_of("acme"))


async def scanned(control) -> list[str]:
    return [customer async for customer in control.customers_with_counters(10)]


CALLS = {
    "prepare": lambda control: control.prepare(),
    "default": lambda control: control.put_default(POLICY),
    "not open": lambda control: control.not_open([("acme", "run")]),
    "scan": scanned,
    "mirrored": lambda control: control.mark_mirrored(1),
    "hint": lambda control: control.hint("acme"),
    "read": lambda control: control.read_outbox({0: STREAM_START}, 10),
    "marks": lambda control: control.marks({0: STREAM_START}),
    "length": lambda control: control.outbox_length(),
    "ping": lambda control: control.ping(),
}
"""What goes through redis-py."""


@pytest.fixture
def binary() -> str:
    servers = find_redis_servers()
    require("a redis-server or valkey-server", found=bool(servers))
    return next(iter(servers.values()))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_redis_that_is_away_is_unavailable(run, call, scheme):
    control = Control.from_url(f"{scheme}://127.0.0.1:{free_port()}", timeout_seconds=1)
    with pytest.raises(GateUnavailable, match="does not answer"):
        run(CALLS[call](control))
    run(control.aclose())


@pytest.mark.parametrize("call", ["prepare", "default", "mirrored", "hint"])
def test_a_master_that_became_a_replica_is_unavailable_too(run, call, binary, tmp_path):
    process, url = start_redis(binary, tmp_path, "--replicaof", "127.0.0.1", "1")
    control = Control.from_url(url)
    with pytest.raises(GateUnavailable, match="refused"):
        run(CALLS[call](control))
    run(control.aclose())
    stop(process)


def test_a_failover_is_nothing_but_a_time_without_answers(run, binary, tmp_path):
    with running_sentinel(binary, tmp_path) as sentinels:
        control = Control.from_url(sentinels.url, timeout_seconds=2)
        run(control.prepare())
        with redis.Redis(port=sentinels.replica) as replica:
            until(lambda: replica.hget(f"{TAG}meta", "epoch"))
        stop(sentinels.processes[sentinels.master])
        failures, deadline = 0, time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                run(control.mark_mirrored(1))
                break
            except GateUnavailable:
                failures += 1
        else:
            pytest.fail("no master was found again")
        assert failures
        run(control.aclose())


def test_a_key_of_another_type_is_no_outage(run, control, redis_url):
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{TAG}hints", "text")
    with pytest.raises(ScriptFailed, match="WRONGTYPE"):
        run(control.hint("acme"))


@pytest.fixture(params=["redis", "fake"])
def undecided(request, control, gate, run):
    """Control, and a gate that knows no policy for strangers; and how it learns one."""
    if request.param == "redis":
        return control, gate, lambda: run(control.put_default(DENY_UNKNOWN))
    fake = FakeGate(DENY_UNKNOWN)
    fake.redis.default = None
    return Control(None, fake.transport), fake, lambda: setattr(fake.redis, "default", DENY_UNKNOWN.digest)


STRANGER = msgspec.structs.replace(state_of(POLICY), status="unknown")
WRITES = {
    "state": lambda control: control.put_state("acme", STRANGER, POLICY),
    "overrides": lambda control: control.put_overrides("acme", [Override("halt", "stop", 2**50)], 1),
}


@pytest.mark.parametrize("what", WRITES)
def test_what_no_policy_decides_is_refused_and_leaves_nothing(run, undecided, what):
    control, gate, prepare = undecided
    with pytest.raises(NotPrepared):
        run(WRITES[what](control))
    prepare()
    snapshot = run(gate.snapshot("acme"))
    assert (snapshot.state, snapshot.overrides) == (None, ())
