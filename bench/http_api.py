"""The HTTP decision path, one uvicorn worker, against a bare httptools server doing the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import clients
import httpx
from measure import REPEATS, Missing, Row, running_redis

from spendgate_daemon.store import Store

CONNECTIONS = 32
_numbers = itertools.count()


def measure(*, quick: bool) -> list[Row]:
    requests = 1_600 if quick else 16_000
    ratios, latencies = [], []
    with running_redis() as (url, _), tempfile.TemporaryDirectory() as directory:
        asyncio.run(clients.install(url))
        with bare_server(url) as bare_port, api_server(url, Path(directory)) as (api_port, key):
            for _ in range(REPEATS):
                bare, _ = asyncio.run(load(bare_port, "", requests))
                mine, p99_ms = asyncio.run(load(api_port, key, requests))
                ratios.append(mine / bare)
                latencies.append(p99_ms)
    return [
        Row("HTTP decision, one worker / bare httptools server", ratios, "", ">= 0.6"),
        Row("HTTP decision, p99 at 32 connections", latencies, "ms", "<= 5"),
    ]


@contextlib.contextmanager
def bare_server(url: str) -> Iterator[int]:
    command = [sys.executable, str(Path(__file__).with_name("bare_server.py")), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def api_server(url: str, home: Path) -> Iterator[tuple[int, str]]:
    """`spendgate api` on a store of its own; its port and a key."""
    database = f"sqlite:///{home / 'store.db'}"
    store = Store.open(database)
    key = store.keys.create("bench", ["decide"], 0)
    store.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"HOME": str(home), "REDIS_URL": url, "DATABASE_URL": database, "API_PORT": str(port)}
    # 32 connections without a pause fill a busy machine: this measures serving, not what is refused at the deadline.
    given["DECISION_DEADLINE_MS"] = "1000"
    environment = os.environ | {f"SPENDGATE_{name}": value for name, value in given.items()}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("spendgate"), "api"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/healthz").is_success:
                    break
            if time.monotonic() > deadline or process.poll() is not None:
                raise Missing("spendgate api did not start")
        yield port, key
    finally:
        process.terminate()
        process.wait(timeout=20)


async def load(port: int, key: str, requests: int) -> tuple[float, float]:
    """Requests a second over CONNECTIONS connections, and the 99th percentile in milliseconds."""
    latencies: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*(_connection(port, key, requests // CONNECTIONS, latencies) for _ in range(CONNECTIONS)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return len(latencies) / elapsed, latencies[len(latencies) * 99 // 100] * 1000


async def _connection(port: int, key: str, requests: int, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(requests):
        event = {
            "customer_id": clients.CUSTOMER,
            "meter": "tokens",
            "quantity": 7,
            "event_id": f"h{next(_numbers):011}",
            "metadata": clients.METADATA,
        }
        body = json.dumps(event).encode()
        head = f"POST /v1/decisions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        started = time.perf_counter()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - started)
    writer.close()
