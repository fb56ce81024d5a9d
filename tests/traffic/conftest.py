"""The real API in a process of its own, over the demo's customers with plenty of everything."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from spendgate.state import PolicyState
from spendgate_daemon.demo import DEMO_CUSTOMERS
from spendgate_daemon.documents import compile_default, compile_policy, load_default
from spendgate_daemon.store import Store
from spendgate_daemon.store.customers import Customer

PLENTY = 10**12
CAPS = {"tokens.output": PLENTY}
DOCUMENT = load_default()


class ApiProcess:
    """`kill` is SIGKILL; `start` comes back when it answers, on the same port each time."""

    def __init__(self, redis_url: str, store_url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        script = Path(__file__).with_name("api_process.py")
        self._command = [sys.executable, str(script), redis_url, store_url, str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.url}/healthz", timeout=5)
            except httpx.TransportError:
                assert self._process.poll() is None, "the API process ended"
                continue
            return
        raise AssertionError("the API process did not answer within 30 s")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    opened = Store.open(f"sqlite:///{tmp_path_factory.mktemp('traffic')}/store.sqlite")
    now_us = time.time_ns() // 1000
    policies = {plan: compile_policy(DOCUMENT, plan, CAPS, now=datetime.now(UTC)) for plan in DOCUMENT.plans}
    opened.customers.save(
        [
            Customer(
                customer_id=customer.customer_id,
                name=customer.name,
                plan=customer.plan,
                status="active",
                version=1,
                source="usagebox",
                policy_digest=policies[customer.plan].digest,
                updated_at_us=now_us,
                caps=CAPS,
                granted_micro_credits=None,
            )
            for customer in DEMO_CUSTOMERS
        ]
    )
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def keys(store):
    """(decide key, read key)"""
    now_us = time.time_ns() // 1000
    return store.keys.create("traffic", ["decide"], now_us), store.keys.create("traffic", ["read"], now_us)


@pytest.fixture(scope="session")
def api_process(redis_server, store):
    process = ApiProcess(redis_server, str(store.database.engine.url))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def api(api_process, control, run):
    """The API, over a Redis where nobody has used anything yet."""
    now = datetime.now(UTC)
    run(control.put_default(compile_default(DOCUMENT, now=now)))
    for customer in DEMO_CUSTOMERS:
        policy = compile_policy(DOCUMENT, customer.plan, CAPS, now=now)
        state = PolicyState(
            policy=policy.digest,
            plan=customer.plan,
            status="active",
            version=1,
            source="usagebox",
            updated_at_us=1,
            granted_micro_credits=PLENTY * 1000,
            caps=CAPS,
        )
        run(control.put_state(customer.customer_id, state, policy))
    if not api_process.running:
        api_process.start()
    return api_process
