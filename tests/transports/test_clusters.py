"""Redis Cluster: commands find the node that owns their key, wherever it has moved to, and never run twice."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
import redis
from redis.crc import key_slot

from clusters import Cluster, running_cluster, until
from redis_servers import free_port, stop
from spendgate import GateUnavailable
from transport_scripts import ECHO, INCREMENT, SET


@pytest.fixture(scope="module")
def cluster(servers) -> Iterator[Cluster]:
    with running_cluster(servers.binary(), servers.directory) as made:
        yield made


def owner_of(cluster: Cluster, key: str) -> int:
    """The port of the node that owns a key's slot, by the word of the first node."""
    with cluster.client(next(iter(cluster.nodes))) as client:
        slots = client.execute_command("CLUSTER SLOTS")
    (port,) = (master[1] for first, last, master, *_ in slots if first <= key_slot(key.encode()) <= last)
    return port


def key_of(cluster: Cluster, port: int, prefix: str) -> str:
    return next(key for key in (f"{prefix}{number}" for number in range(10_000)) if owner_of(cluster, key) == port)


def epoch_of(cluster: Cluster, port: int) -> str:
    with cluster.client(port) as client:
        return client.execute_command("CLUSTER INFO")["cluster_current_epoch"]


def move_slot(cluster: Cluster, slot: int, source: int, target: int) -> None:
    """An importing node that becomes the owner takes a higher epoch than any it knows of, so that no gossip undoes it:
    therefore the last one must have reached it."""
    until(lambda: len({epoch_of(cluster, port) for port in cluster.nodes}) == 1)
    new_owner = cluster.node_id(target)
    with cluster.client(target) as client:
        client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", cluster.node_id(source))
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", new_owner)
    for port in cluster.nodes:
        with cluster.client(port) as client:
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", new_owner)


def test_keys_of_every_node_are_reached_by_way_of_any(drive, cluster):
    for port in cluster.nodes:
        driver = drive(f"redis+cluster://127.0.0.1:{port}")
        keys = [f"spread{number}" for number in range(50)]
        assert len({owner_of(cluster, key) for key in keys}) == 3
        assert driver.gather([(ECHO, key, [key]) for key in keys]) == [key.encode() for key in keys]


def test_a_key_is_read_where_it_was_written(drive, cluster):
    driver = drive(cluster.url)
    for number in range(20):
        driver.run(SET, f"read{number}", [number])
        assert driver.get(f"read{number}") == b"%d" % number
    assert driver.get("never written") is None


def test_one_node_of_the_url_is_enough(drive, cluster):
    port = next(iter(cluster.nodes))
    driver = drive(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{port},127.0.0.1:{free_port()}")
    assert driver.run(ECHO, "anything", ["x"]) == b"x"


def test_a_slot_that_has_moved_is_followed(drive, cluster):
    source, target, _ = cluster.nodes
    key = key_of(cluster, source, "moving")
    driver = drive(cluster.url)
    driver.run(ECHO, key, ["before"])
    move_slot(cluster, key_slot(key.encode()), source, target)
    with cluster.client(source) as client:
        client.config_resetstat()
        for number in range(1, 21):
            assert driver.run(INCREMENT, key) == number
        redirections = client.info("errorstats").get("errorstat_MOVED", {}).get("count", 0)
        assert redirections <= 2, "a redirection is remembered"
    assert driver.gather([(INCREMENT, key, [])] * 20)
    assert driver.get(key) == b"40"
    with cluster.client(target) as client:
        assert client.delete(key) == 1
    move_slot(cluster, key_slot(key.encode()), target, source)
    assert driver.run(ECHO, key, ["back"]) == b"back"


def test_a_key_that_has_moved_before_its_slot_is_asked_for(drive, cluster):
    source, target, _ = cluster.nodes
    key = key_of(cluster, source, "asking")
    slot = key_slot(key.encode())
    driver = drive(cluster.url)
    driver.run(ECHO, key, ["before"])
    with cluster.client(source) as giving, cluster.client(target) as taking:
        taking.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", cluster.node_id(source))
        giving.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", cluster.node_id(target))
        assert driver.run(INCREMENT, key) == 1
        assert driver.gather([(INCREMENT, key, [])] * 20)
        assert driver.run(INCREMENT, key) == 22
        assert driver.get(key) == b"22"
        taking.execute_command("ASKING")
        assert taking.delete(key) in (0, 1)
        for client in (taking, giving):
            client.execute_command("CLUSTER SETSLOT", slot, "STABLE")


def test_a_slot_that_nobody_owns_is_refused(drive, cluster):
    port = next(iter(cluster.nodes))
    key = key_of(cluster, port, "orphan")
    slot = key_slot(key.encode())
    driver = drive(cluster.url)
    driver.run(ECHO, key, ["before"])
    with cluster.client(port) as client:
        client.execute_command("CLUSTER DELSLOTS", slot)
        with pytest.raises(GateUnavailable) as caught:
            driver.run(ECHO, key, ["x"])
        assert caught.value.executed == "no"
        client.execute_command("CLUSTER ADDSLOTS", slot)
        until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    until(lambda: answers(driver, key))


def test_a_node_that_hangs_is_passed_over(drive, cluster):
    """It accepts connections and says nothing; a call that meets it may time out, and the next ones do not."""
    port = next(iter(cluster.nodes))
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        driver = drive(f"redis+cluster://127.0.0.1:{hanging.getsockname()[1]},127.0.0.1:{port}", 0.5)
        with contextlib.suppress(GateUnavailable):
            driver.run(ECHO)
        assert driver.run(ECHO, arguments=["x"]) == b"x"


def test_no_node_at_all_is_told_within_the_deadline(drive):
    driver = drive(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}", 0.3)
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(GateUnavailable) as caught:
            driver.run(ECHO)
        assert caught.value.executed == "no"
        assert time.monotonic() - started < 0.45


def test_a_redis_that_is_no_cluster_is_told(drive, servers):
    driver = drive(servers.url("tcp").replace("redis://", "redis+cluster://"))
    with pytest.raises(GateUnavailable, match="cluster support disabled") as caught:
        driver.run(ECHO)
    assert caught.value.executed == "no"


def test_a_node_of_a_cluster_alone_does_not_redirect(drive, cluster):
    port, other, _ = cluster.nodes
    with pytest.raises(GateUnavailable, match="MOVED") as caught:
        drive(f"redis://127.0.0.1:{port}").run(ECHO, key_of(cluster, other, "lone"))
    assert caught.value.executed == "no"


@pytest.mark.parametrize("drive", ["asyncio", "threads"], indirect=True)
def test_a_replica_that_took_over_is_found(drive, servers):
    with running_cluster(servers.binary(), servers.directory, replicas=1) as cluster:
        master, *_, replica = cluster.nodes
        key = key_of(cluster, master, "surviving")
        driver = drive(cluster.url, 2)
        assert driver.run(INCREMENT, key) == 1
        with redis.Redis(port=replica) as client:
            until(lambda: client.execute_command("READONLY") and client.get(key) == b"1")
            stop(cluster.nodes[master])
            with pytest.raises(GateUnavailable):
                driver.run(INCREMENT, key)
            client.execute_command("CLUSTER FAILOVER TAKEOVER")
        until(lambda: answers(driver, key))
        assert driver.get(key) == b"1"
        assert driver.run(INCREMENT, key) == 2


def answers(driver, key: str) -> bool:
    try:
        return driver.run(ECHO, key, ["x"]) == b"x"
    except GateUnavailable:
        return False
