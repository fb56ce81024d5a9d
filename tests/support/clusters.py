"""Real Redis Clusters and Sentinels for tests, as small as they work."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from redis_servers import free_port, start_redis, stop

SLOTS = 16384
SERVICE = "gate"
_FAILOVER_MS = 500
_SYNC_AT_ONCE = ("--repl-diskless-sync-delay", "0")


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Ask again and again; a condition that raises redis-py's errors does not hold yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.exceptions.RedisError):
            if condition():
                return
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {condition}")


class Cluster:
    """Nodes by port, masters first; each master has an equal part of the slots."""

    def __init__(self, nodes: dict[int, subprocess.Popen[bytes]]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.nodes)

    def client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, protocol=2)

    def node_id(self, port: int) -> str:
        with self.client(port) as client:
            return client.execute_command("CLUSTER MYID").decode()


@contextlib.contextmanager
def running_cluster(binary: str, directory: Path, *, masters: int = 3, replicas: int = 0) -> Iterator[Cluster]:
    """Replicas, if there are any, are those of the first master."""
    with contextlib.ExitStack() as stack:
        nodes = {}
        for _ in range(masters + replicas):
            port = _port_with_bus()
            options = (*_SYNC_AT_ONCE, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            options += ("--cluster-config-file", f"nodes-{port}.conf")
            nodes[port], _ = start_redis(binary, directory, *options, port=port)
            stack.callback(stop, nodes[port])
        cluster = Cluster(nodes)
        _join(cluster, masters)
        yield cluster


def _join(cluster: Cluster, masters: int) -> None:
    ports = list(cluster.nodes)
    for number, port in enumerate(ports):
        with cluster.client(port) as client:
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            if number < masters:
                slots = range(number * SLOTS // masters, (number + 1) * SLOTS // masters)
                client.execute_command("CLUSTER ADDSLOTS", *slots)
            client.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])

    def knows_all(port: int) -> bool:
        with cluster.client(port) as client:
            info = client.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == len(ports)

    for port in ports:
        until(lambda: knows_all(port))  # noqa: B023  (asked before the next round)
    for port in ports[masters:]:
        with cluster.client(port) as client:
            client.execute_command("CLUSTER REPLICATE", cluster.node_id(ports[0]))
            until(lambda: client.info("replication")["master_link_status"] == "up")


def _port_with_bus() -> int:
    """A cluster node also listens 10,000 ports above its own."""
    while True:
        port = free_port()
        if port > 55_000:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port + 10_000))
            return port


class Sentinels:
    """A master, its replica and one Sentinel that decides alone."""

    def __init__(self, master: int, replica: int, sentinel: int, processes: dict[int, subprocess.Popen[bytes]]) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel
        self.processes = processes

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel}/{SERVICE}/0"


@contextlib.contextmanager
def running_sentinel(binary: str, directory: Path) -> Iterator[Sentinels]:
    with contextlib.ExitStack() as stack:
        processes = {}
        master, replica, sentinel = free_port(), free_port(), free_port()
        for port, options in ((master, _SYNC_AT_ONCE), (replica, ("--replicaof", "127.0.0.1", str(master)))):
            processes[port], _ = start_redis(binary, directory, *options, port=port)
            stack.callback(stop, processes[port])
        with redis.Redis(port=replica) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up")
        configuration = directory / f"sentinel-{sentinel}.conf"
        configuration.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {_FAILOVER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        processes[sentinel], _ = start_sentinel(binary, directory, configuration, sentinel)
        stack.callback(stop, processes[sentinel])
        with redis.Redis(port=sentinel) as client:
            until(lambda: [each["master-link-status"] for each in client.sentinel_slaves(SERVICE)] == ["ok"])
        yield Sentinels(master, replica, sentinel, processes)


def start_sentinel(binary: str, directory: Path, configuration: Path, port: int) -> tuple[subprocess.Popen[bytes], int]:
    command = [binary, str(configuration), "--sentinel", "--port", str(port), "--bind", "127.0.0.1"]
    with (directory / f"sentinel-{port}.log").open("wb") as log:
        process = subprocess.Popen([*command, "--dir", str(directory)], stdout=log, stderr=log)
    with redis.Redis(port=port) as client:
        until(client.ping)
    return process, port
