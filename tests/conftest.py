"""Real servers for the tests: each is found on this machine, or the test that needs it is skipped and says why.

`SPENDGATE_TEST_REQUIRE=all` turns every such skip into a failure, which is how CI runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

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
