"""Two APIs and two daemons as processes of their own, load on the APIs, `kill -9` at any moment, and a UsageBox on a bad day."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from faulty_usagebox import FaultyUsageBox
from serving import serve
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.store import Store

SPENDGATE = Path(sys.executable).with_name("spendgate")
POLICY = """version: 1
meters: {tokens: {unit: token}}
plans:
  basic:
    limits:
      - {kind: quota, id: month, meter: tokens, cap: contract, period: month}
"""
SENDERS = 4


def eventually(found, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while True:
        result = found()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Process:
    """`spendgate api` or `daemon` on a port of its own; killed and started again."""

    def __init__(self, part: str, environment: dict[str, str], log: Path) -> None:
        self.part, self.log, self.port = part, log, _free_port()
        self.environment = environment | {f"SPENDGATE_{part.upper()}_PORT": str(self.port)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([SPENDGATE, self.part], env=self.environment, stdout=log, stderr=log)

    def wait_until_it_answers(self) -> None:
        try:
            eventually(self._answers, 60, f"{self.part} answers")
        except AssertionError as late:
            late.add_note(self.log.read_text()[-5000:])
            raise

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class KillSite:
    """`customers` share the load. Events are sent until they are answered, each under one id."""

    def __init__(self, home: Path, redis_url: str, seed: int, share: float, customers: int = 6) -> None:
        self.chance = random.Random(seed)
        self.customers = [f"customer-{number}" for number in range(customers)]
        self.sent: Counter[str] = Counter()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._seed, self._share = seed, share
        self._home, self._redis_url = home, redis_url

    @contextlib.contextmanager
    def running(self) -> Iterator[KillSite]:
        sandbox = create_sandbox(self._home / "book.sqlite", key=None)
        with serve(sandbox) as url, contextlib.ExitStack() as stack:
            self.sandbox_url, self.front = url, FaultyUsageBox(url, self._seed, self._share)
            front_url = stack.enter_context(serve(self.front))
            for customer in self.customers:
                terms = {"plan": "basic", "caps": {"tokens": 10**9}}
                assert httpx.put(f"{url}/sandbox/v1/customers/{customer}", json=terms).status_code == 200
            self.store = Store.open(f"sqlite:///{self._home / 'store.db'}")
            stack.callback(self.store.close)
            self._key = self.store.keys.create("load", ["decide"], time.time_ns() // 1000)
            policy = self._home / "policy.yaml"
            policy.write_text(POLICY)
            environment = {name: value for name, value in os.environ.items() if not name.startswith("SPENDGATE_")}
            environment |= {
                "SPENDGATE_HOME": str(self._home),
                "SPENDGATE_REDIS_URL": self._redis_url,
                "SPENDGATE_DATABASE_URL": f"sqlite:///{self._home / 'store.db'}",
                "SPENDGATE_USAGEBOX_URL": front_url,
                "SPENDGATE_USAGEBOX_DIALECT": "hosted",
                "SPENDGATE_POLICY_FILE": str(policy),
                "SPENDGATE_DECISION_DEADLINE_MS": "5000",
            }
            self.processes = {
                part: [Process(part, environment, self._home / f"{part}-{number}.log") for number in (1, 2)]
                for part in ("api", "daemon")
            }
            everything = [process for processes in self.processes.values() for process in processes]
            try:
                for process in everything:
                    process.start()
                for process in everything:
                    process.wait_until_it_answers()
                eventually(self._mirrored, 60, "the customers are known")
                yield self
            finally:
                self.stopping.set()
                for process in everything:
                    process.kill()

    def _mirrored(self) -> bool:
        return len(self.store.customers.all_known()) == len(self.customers)

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Senders at work; after the block every event that was begun has its answer."""
        with ThreadPoolExecutor(SENDERS) as pool:
            senders = [pool.submit(self._send, number) for number in range(SENDERS)]
            try:
                yield
            finally:
                self.stopping.set()
            for sender in senders:
                sender.result(90)

    def _send(self, sender: int) -> None:
        chance, number = random.Random(sender), 0
        with httpx.Client(headers={"authorization": f"Bearer {self._key}"}, timeout=10) as http:
            while not self.stopping.is_set():
                number += 1
                customer, quantity = chance.choice(self.customers), chance.randint(1, 50)
                event = {
                    "event_id": f"{sender}-{number}",
                    "customer_id": customer,
                    "meter": "tokens",
                    "quantity": quantity,
                }
                eventually(lambda event=event: self._decided(http, event), 60, f"an answer to {event}")
                with self._lock:
                    self.sent[customer] += quantity

    def _decided(self, http: httpx.Client, event: dict) -> bool:
        """By either API: an event that one didn't answer may be asked of the other."""
        api = self.chance.choice(self.processes["api"])
        try:
            answer = http.post(f"http://127.0.0.1:{api.port}/v1/decisions", json=event)
        except httpx.HTTPError:
            return False
        if answer.status_code == 503:
            return False
        assert answer.status_code == 200, answer.text
        assert answer.json()["decision"] == "allow", answer.text
        return True

    def kill(self, part: str) -> None:
        """One of them, at a random moment of the next half second; started again at once."""
        time.sleep(self.chance.random() / 2)
        process = self.chance.choice(self.processes[part])
        process.kill()
        process.start()
        process.wait_until_it_answers()

    def kill_after_sending(self) -> None:
        """Both daemons, when UsageBox has taken a batch of one and not answered."""
        self.front.taken.clear()
        assert self.front.taken.wait(60), "no batch met that fault"
        for process in self.processes["daemon"]:
            process.kill()
        for process in self.processes["daemon"]:
            process.start()
        for process in self.processes["daemon"]:
            process.wait_until_it_answers()

    def settle(self) -> None:
        """UsageBox has a good day from now on; wait until everything has arrived."""
        self.front.share = 0.0
        eventually(self._arrived, 120, "everything is delivered")

    def _arrived(self) -> bool:
        recorded = sum(self.recorded(customer) for customer in self.customers)
        sinks = {sink.sink: sink for sink in self.store.deliveries.sinks()}
        usage = sinks.get("usagebox.usage")
        waits = usage is None or usage.pending or usage.attempted
        return recorded == sum(self.sent.values()) and not waits

    def recorded(self, customer: str) -> int:
        return self.store.usage.total(customer, "tokens", 0, 2**62)

    def billed(self, customer: str) -> int:
        query = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "group_by": "meter_id", "source": "raw"}
        answer = httpx.get(f"{self.sandbox_url}/v1/accounts/{customer}/usage", params=query)
        return sum(group["sum"] for group in answer.json()["groups"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
