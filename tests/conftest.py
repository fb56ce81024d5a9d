"""Real servers for the tests: each is found on this machine, or the test that needs it is skipped and says why.

`SPENDGATE_TEST_REQUIRE=all` turns every such skip into a failure, which is how CI runs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from redis_servers import find_redis_servers, start_redis
from requirements import require
from spendgate import Gate
from spendgate.control import Control

os.environ.setdefault("SPENDGATE_DECISION_DEADLINE_MS", "5000")
"""A busy machine is no outage: processes that tests start wait as long as their tests do."""


@pytest.fixture(autouse=True)
def patient_journal(monkeypatch) -> None:
    """Nor is a busy disk a slow one."""
    monkeypatch.setattr("spendgate.outage.JOURNAL_SECONDS", 20)


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


def _postgres_programs() -> Path | None:
    """Folder of initdb and postgres: Debian keeps them off the PATH."""
    on_path = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    candidates = [Path(on_path).parent] if on_path else []
    return next((each for each in [*candidates, *folders] if (each / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres():
    """URL of a PostgreSQL of its own. It refuses to run as root, so root runs it as the user that Debian made for it."""
    programs = _postgres_programs()
    require("PostgreSQL", found=programs is not None)
    # Not below pytest's own folder: that is closed to everybody but its owner.
    home = Path(tempfile.mkdtemp(prefix="spendgate-postgres-"))
    as_other = []
    if os.getuid() == 0:
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(home, "postgres", "postgres")

    def run(program: str, *arguments: object) -> None:
        command = [*as_other, programs / program, "-D", home / "data", *arguments]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            list(map(str, command)), cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        run("initdb", "-U", "spendgate", "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-w", "-l", home / "log", "-o", options, "start")
        yield f"postgresql://spendgate@127.0.0.1:{port}"
        run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def new_postgres(postgres) -> Callable[[], str]:
    """Makes an empty database; its URL."""

    def make() -> str:
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{postgres}/{name}"

    return make
