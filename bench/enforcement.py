"""How long until everybody knows: a stop in another process's flags, a webhook in the next decision."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from measure import Missing, Row

WATCHER = """
import sys, time
from openfeature.evaluation_context import EvaluationContext
from spendgate_flags import SpendgateProvider
provider = SpendgateProvider(sys.argv[1], ttl_seconds=3600)
provider.initialize(EvaluationContext())
for line in sys.stdin:
    context = EvaluationContext(targeting_key=line.strip())
    ask = lambda: provider.resolve_boolean_details("billing.hard-stop", False, context).value
    assert not ask()
    print("watching", flush=True)
    while not ask():
        time.sleep(0.0005)
    print(time.time(), flush=True)
"""


def measure(*, quick: bool) -> list[Row]:
    rounds = 10 if quick else 100
    with product() as (api, decide, sandbox, redis_url):
        stops = stop_to_flag(api, decide, sandbox, redis_url, rounds)
        caps = webhook_to_enforced(api, decide, sandbox, rounds)
    return [
        Row("stop decided -> flag changed in another process, p99", [_p99(stops)], "ms", "<= 250"),
        Row("policy webhook -> enforced, p99", [_p99(caps)], "ms", "<= 1000"),
    ]


def stop_to_flag(
    api: httpx.Client, decide: dict[str, str], sandbox: httpx.Client, redis_url: str, rounds: int
) -> list[float]:
    command = [sys.executable, "-c", WATCHER, redis_url]
    lags = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        for number in range(rounds):
            customer = f"stop-{number}"
            contract(api, decide, sandbox, customer, 1000)
            watcher.stdin.write(f"{customer}\n")
            watcher.stdin.flush()
            assert watcher.stdout.readline() == "watching\n"
            assert ask(api, decide, customer, 1000)["customer_state"] == "stopped"
            decided = time.time()
            lags.append((float(watcher.stdout.readline()) - decided) * 1000)
        watcher.stdin.close()
    return lags


def webhook_to_enforced(api: httpx.Client, decide: dict[str, str], sandbox: httpx.Client, rounds: int) -> list[float]:
    contract(api, decide, sandbox, "raised", 1000)
    lags = []
    for number in range(rounds):
        started = time.perf_counter()
        sandbox.put("/sandbox/v1/customers/raised", json={"caps": {"tokens.output": 2000 + number}})
        while ask(api, decide, "raised", 2000 + number, dry_run=True)["decision"] != "allow":
            pass
        lags.append((time.perf_counter() - started) * 1000)
    return lags


def contract(api: httpx.Client, decide: dict[str, str], sandbox: httpx.Client, customer: str, cap: int) -> None:
    terms = {"plan": "starter", "caps": {"tokens.output": cap}}
    assert sandbox.put(f"/sandbox/v1/customers/{customer}", json=terms).is_success
    while ask(api, decide, customer, 1, dry_run=True)["decision"] != "allow":
        pass


def ask(
    api: httpx.Client, decide: dict[str, str], customer: str, quantity: int, *, dry_run: bool = False
) -> dict[str, object]:
    event = {"customer_id": customer, "meter": "tokens.output", "quantity": quantity, "dry_run": dry_run}
    answer: dict[str, object] = api.post("/v1/decisions", json=event, headers=decide).json()
    return answer


@contextlib.contextmanager
def product() -> Iterator[tuple[httpx.Client, dict[str, str], httpx.Client, str]]:
    """`spendgate up` without demo and traffic, on free ports."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        ports = {f"SPENDGATE_{part}_PORT": "0" for part in ("API", "DASHBOARD", "SANDBOX", "DAEMON")}
        command = [Path(sys.executable).with_name("spendgate"), "up", "--home", home, "--no-traffic", "--no-demo"]
        process = subprocess.Popen(
            command, env=os.environ | ports, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "Ready after" in line:
                    break
            else:
                raise Missing("spendgate up did not start")
            addresses = json.loads((home / "addresses.json").read_text())
            lines = (home / "keys.env").read_text().splitlines()
            keys = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
            decide = {"authorization": f"Bearer {keys['SPENDGATE_DECIDE_KEY']}"}
            ubx = {"authorization": f"Bearer {keys['UBX_KEY']}"}
            with (
                httpx.Client(base_url=addresses["api_url"], timeout=20) as api,
                httpx.Client(base_url=addresses["usagebox_url"], headers=ubx, timeout=20) as sandbox,
            ):
                yield api, decide, sandbox, addresses["redis_url"]
        finally:
            process.terminate()
            process.wait(timeout=30)


def _p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]
