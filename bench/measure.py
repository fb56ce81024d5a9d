"""Rows, medians, and the real servers that a measurement needs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from spendgate.limits import PerEvent, Quota, Rate, Threshold
from spendgate.policy import EffectivePolicy
from spendgate.state import PolicyState
from spendgate.window import Window

REPEATS = 5


class Missing(Exception):
    """What a measurement needs is not on this machine."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. `target` such as `>= 0.9`; None where a figure is only told."""

    name: str
    values: list[float]
    unit: str
    target: str | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def told(self) -> str:
        return f"{number_text(self.value)} {self.unit}".rstrip()

    @property
    def spread(self) -> str:
        return f"{number_text(min(self.values))} to {number_text(max(self.values))}"

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        relation, bound = self.target.split()[:2]
        number = float(bound)
        return self.value >= number if relation == ">=" else self.value <= number

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "target": self.target,
            "holds": self.holds,
            "unit": self.unit,
            "spread": [min(self.values), max(self.values)],
        }


def number_text(value: float) -> str:
    """Three digits: as many as the noise of a machine leaves meaning."""
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def five(measured: Callable[[], float]) -> list[float]:
    return [measured() for _ in range(REPEATS)]


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{name} is not on PATH")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_redis(*options: str) -> Iterator[tuple[str, int]]:
    """URL and TCP port of a Redis of its own, without persistence unless the options say so."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise Missing("no redis-server or valkey-server on PATH")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            wait_for(url)
            yield url, port
        finally:
            process.terminate()
            process.wait(timeout=20)


@contextlib.contextmanager
def running_postgresql() -> Iterator[str]:
    """URL of a PostgreSQL of its own, with its usual durability. It refuses to run as root, so root runs it as `postgres`."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not folders:
        raise Missing("no PostgreSQL on PATH or in /usr/lib/postgresql")
    as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    port, home = free_port(), Path(tempfile.mkdtemp(prefix="spendgate-bench-"))
    if as_other:
        shutil.chown(home, "postgres", "postgres")

    def run(name: str, *arguments: str) -> None:
        command = [*as_other, str(folders[0] / name), "-D", str(home / "data"), *arguments]
        subprocess.run(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    try:
        run("initdb", "-U", "spendgate", "--auth=trust", "-E", "UTF8")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1"
        run("pg_ctl", "-w", "-l", str(home / "log"), "-o", options, "start")
        yield f"postgresql://spendgate@127.0.0.1:{port}/postgres"
        run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 20
    with redis.Redis.from_url(url) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.exceptions.ConnectionError):
                client.ping()
                return
    raise Missing(f"{url} did not answer")


def redis_benchmark(
    port: int, clients: int, requests: int, arguments: list[str | bytes], *, pipelined: int = 1
) -> float:
    """Requests a second of one command, as redis-benchmark measures it; `__rand_int__` becomes a random number."""
    command = [program("redis-benchmark"), "-p", str(port), "-c", str(clients), "-n", str(requests)]
    command += ["-P", str(pipelined), "-r", "999999999", "--csv"]
    done = subprocess.run([*command, *arguments], capture_output=True, check=True, timeout=300)
    rows = done.stdout.decode(errors="replace").strip().splitlines()
    numbers = re.findall(r'"([0-9.]+)"', rows[-1])
    return float(numbers[0])


def bench_policy() -> EffectivePolicy:
    """Four limits that never deny: two quotas, a rate, a context window."""
    day, month = Window(length_seconds=86_400), Window(length_seconds=2_592_000)
    big = 10**14
    return EffectivePolicy(
        document="bench",
        plan="bench",
        meters={"tokens": "token"},
        limits=(
            Quota("day", ("tokens",), "token", "day", day, big, big, thresholds=(Threshold("80%", big),)),
            Quota("month", ("tokens",), "token", "month", month, big, big),
            Rate("rate", ("tokens",), "token", "big", 10**6, 1, 10**12),
            PerEvent("context", ("tokens",), "token", 200_000, field="context_window"),
        ),
        models=("claude-*",),
    )


def bench_state(policy: EffectivePolicy) -> PolicyState:
    return PolicyState(policy.digest, "bench", "active", 1, "bench", 0)
