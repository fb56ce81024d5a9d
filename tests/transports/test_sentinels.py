"""Sentinel: commands go to the master, and to the next one after a failover."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis

from clusters import SERVICE, running_sentinel, until
from redis_servers import free_port, start_redis, stop
from spendgate import GateUnavailable
from spendgate.transports import redis_client
from spendgate.transports.command import pack
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.multiplexed.node import Node
from spendgate.transports.session import Session
from spendgate.transports.threaded.node import ThreadedNode
from transport_scripts import ECHO, INCREMENT


def role_of(port: int) -> bytes | str:
    with redis.Redis(port=port) as client:
        return client.info("replication")["role"]


def test_an_unreachable_sentinel_is_skipped(drive, servers):
    url = servers.url("sentinel").replace("://", f"://127.0.0.1:{free_port()},")
    assert drive(url).run(ECHO, arguments=["x"]) == b"x"


def test_no_sentinel_is_told_within_the_deadline(drive):
    driver = drive(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/{SERVICE}", 0.3)
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(GateUnavailable, match="Sentinel 127") as caught:
            driver.run(ECHO)
        assert caught.value.executed == "no"
        assert time.monotonic() - started < 0.45


def test_a_sentinel_that_hangs_is_passed_over(drive, servers):
    """It accepts connections and says nothing; a call that meets it may time out, and the next ones do not."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        driver = drive(servers.url("sentinel").replace("://", f"://127.0.0.1:{hanging.getsockname()[1]},"), 0.5)
        with contextlib.suppress(GateUnavailable):
            driver.run(ECHO)
        assert driver.run(ECHO, arguments=["x"]) == b"x"


def test_a_service_that_no_sentinel_knows(drive, servers):
    url = servers.url("sentinel").replace(f"/{SERVICE}/", "/unheard-of/")
    with pytest.raises(GateUnavailable, match="unheard-of") as caught:
        drive(url).run(ECHO)
    assert caught.value.executed == "no"


@pytest.mark.parametrize("drive", ["asyncio", "threads"], indirect=True)
@pytest.mark.parametrize("old_master", ["is killed", "becomes a replica"])
def test_after_a_failover_calls_go_to_the_new_master(drive, servers, old_master):
    with running_sentinel(servers.binary(), servers.directory) as sentinels:
        driver = drive(sentinels.url, 2)
        assert driver.run(INCREMENT, "counter") == 1
        with redis.Redis(port=sentinels.replica) as replica:
            until(lambda: replica.get("counter") == b"1")
        if old_master == "is killed":
            stop(sentinels.processes[sentinels.master])
        else:
            with redis.Redis(port=sentinels.sentinel) as sentinel:
                until(lambda: sentinel.execute_command("SENTINEL FAILOVER", SERVICE))
        until(lambda: role_of(sentinels.replica) == "master")
        if old_master == "becomes a replica":
            # The Sentinel does this too, ten seconds later.
            with redis.Redis(port=sentinels.master) as client:
                client.replicaof("127.0.0.1", sentinels.replica)
        until(lambda: writes(driver))
        with redis.Redis(port=sentinels.replica) as client:
            assert client.get("mark") is not None
        assert driver.get("counter") == b"1"
        assert driver.run(INCREMENT, "counter") == 2


def writes(driver) -> bool:
    try:
        return driver.run(INCREMENT, "mark") > 0
    except GateUnavailable:
        return False


@pytest.fixture
def replica(servers, tmp_path) -> Iterator[Endpoint]:
    process, url = start_redis(servers.binary(), tmp_path, "--replicaof", "127.0.0.1", "1")
    yield Endpoint("127.0.0.1", urlsplit(url).port)
    stop(process)


def test_a_replica_that_a_sentinel_still_takes_for_the_master_is_not_used(replica):
    """The Sentinel protocol wants the role asked for, because a Sentinel may learn of a failover late."""
    session, command = Session(masters_only=True), pack("GET", "k")

    async def locate() -> Endpoint:
        return replica

    async def scenario() -> None:
        node = Node(replica, locate, session, 5)
        with pytest.raises(GateUnavailable, match="it is a slave, not the master"):
            await node.submit(command)[0]
        await node.aclose()

    asyncio.run(scenario())
    with pytest.raises(GateUnavailable, match="it is a slave, not the master"):
        ThreadedNode(replica, lambda _: replica, session).ask(command, time.monotonic() + 5)


def test_the_other_client_of_redis_finds_the_master_too(servers):
    async def scenario() -> None:
        client = redis_client(servers.url("sentinel"), 5)
        await client.set("by-redis-py", "1")
        assert await client.get("by-redis-py") == b"1"
        await client.aclose()

    asyncio.run(scenario())
