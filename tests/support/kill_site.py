"""Two APIs and two daemons as processes of their own, load on the APIs, `kill -9` at any moment and at named points, a Kafka
that stops and starts, and a UsageBox on a bad day."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from acceptance_product import eventually
from faulty_usagebox import FaultyUsageBox
from kafka_servers import Broker, running_broker
from killed_process import KilledProcess
from senders import CUSTOMERS, PLENTY, SCARCE, SCARCE_STEP, Senders
from serving import serve
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.store import Store
from topic_books import PREFIX, delivered_to_kafka

POLICY = """version: 1
meters: {tokens: {unit: token}}
plans:
  basic:
    limits:
      - {kind: quota, id: month, meter: tokens, cap: contract, period: month, floor: 50, thresholds: [80]}
"""
AFTER_SENDING = "taken_unanswered"
POINTS = ("usagebox_answered", "stored_not_trimmed")
KAFKA_POINTS = ("kafka_sent", "kafka_committed")
"""Where a daemon dies: see `armed_process.py`. AFTER_SENDING is UsageBox's: it has a batch and has not answered."""

AWAY_SECONDS = 2
MET_SECONDS = 120
"""How long something that happens all the time under load may not happen; a broker may be away meanwhile."""


class KillSite:
    """`share` of UsageBox's answers are bad; `pause_seconds` is the rest that a sender of events takes after each."""

    def __init__(
        self, home: Path, redis_url: str, seed: int, share: float, *, kafka: bool, pause_seconds: float = 0.0
    ) -> None:
        self.chance = random.Random(seed)
        self.customers = [*CUSTOMERS, SCARCE]
        self.done: Counter[str] = Counter()
        """What was done to it."""
        self.broker: Broker | None = None
        self._seed, self._share, self._pause_seconds = seed, share, pause_seconds
        self._home, self._redis_url, self._kafka = home, redis_url, kafka

    @property
    def points(self) -> tuple[str, ...]:
        return POINTS + KAFKA_POINTS if self._kafka else POINTS

    @contextlib.contextmanager
    def running(self) -> Iterator[KillSite]:
        sandbox = create_sandbox(self._home / "book.sqlite", key=None)
        with serve(sandbox) as url, contextlib.ExitStack() as stack:
            self.sandbox_url, self.front = url, FaultyUsageBox(url, self._seed, self._share)
            front_url = stack.enter_context(serve(self.front))
            for customer in self.customers:
                self._contract(customer, SCARCE_STEP if customer == SCARCE else PLENTY)
            if self._kafka:
                folder = self._home / "kafka"
                folder.mkdir()
                self.broker = stack.enter_context(running_broker(folder))
            self.store = Store.open(f"sqlite:///{self._home / 'store.db'}")
            stack.callback(self.store.close)
            environment = self._environment(front_url)
            self.processes = {
                part: [KilledProcess(part, environment, self._home / f"{part}-{number}.log") for number in (1, 2)]
                for part in ("api", "daemon")
            }
            key = self.store.keys.create("load", ["decide"], time.time_ns() // 1000)
            self._senders = Senders(self.processes["api"], key, self._contract, self.chance, self._pause_seconds)
            everything = [process for processes in self.processes.values() for process in processes]
            try:
                for process in everything:
                    process.start()
                for process in everything:
                    process.wait_until_it_answers()
                eventually(self._mirrored, 60, "the customers are known")
                yield self
            finally:
                for process in everything:
                    process.kill()

    def _environment(self, usagebox_url: str) -> dict[str, str]:
        policy, self._points = self._home / "policy.yaml", self._home / "points"
        policy.write_text(POLICY)
        self._points.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPENDGATE_")}
        environment |= {
            "SPENDGATE_HOME": str(self._home),
            "SPENDGATE_REDIS_URL": self._redis_url,
            "SPENDGATE_DATABASE_URL": f"sqlite:///{self._home / 'store.db'}",
            "SPENDGATE_USAGEBOX_URL": usagebox_url,
            "SPENDGATE_USAGEBOX_DIALECT": "hosted",
            "SPENDGATE_POLICY_FILE": str(policy),
            "SPENDGATE_POLL_INTERVAL_SECONDS": "1",
            "SPENDGATE_DECISION_DEADLINE_MS": "5000",
            "SPENDGATE_TEST_POINTS": str(self._points),
        }
        if self.broker is not None:
            environment |= {
                "SPENDGATE_KAFKA_BOOTSTRAP": self.broker.address,
                "SPENDGATE_KAFKA_TOPIC_PREFIX": PREFIX,
            }
        return environment

    def _contract(self, customer: str, cap: int) -> None:
        terms = {"plan": "basic", "caps": {"tokens": cap}}
        assert httpx.put(f"{self.sandbox_url}/sandbox/v1/customers/{customer}", json=terms).status_code == 200

    def _mirrored(self) -> bool:
        return len(self.store.customers.all_known()) == len(self.customers)

    def load(self) -> contextlib.AbstractContextManager[None]:
        return self._senders.at_work()

    @property
    def sent(self) -> Counter[str]:
        """Units by customer."""
        return self._senders.sent

    def hurt(self, *, politely: bool) -> None:
        """All of what follows, once; Kafka is away while processes are killed."""
        with ThreadPoolExecutor(1) as pool:
            away = pool.submit(self.restart_broker, politely=politely) if self.broker is not None else None
            for part in ("daemon", "api"):
                self.kill(part)
            self.kill_after_sending()
            if away is not None:
                away.result()
        self.kill_at(*self.points)
        self._senders.check()

    def kill(self, part: str) -> None:
        """One of them, at a random moment of the next half second; started again at once."""
        time.sleep(self.chance.random() / 2)
        process = self.chance.choice(self.processes[part])
        process.kill_and_start()
        process.wait_until_it_answers()
        self.done[part] += 1

    def kill_after_sending(self) -> None:
        """Both daemons, when UsageBox has taken a batch of one and not answered."""
        self.front.taken.clear()
        assert self.front.taken.wait(MET_SECONDS), "no batch met that fault"
        for process in self.processes["daemon"]:
            process.kill_and_start()
        for process in self.processes["daemon"]:
            process.wait_until_it_answers()
        self.done[AFTER_SENDING] += 1

    def kill_at(self, *points: str) -> None:
        """The daemon that first comes to one of them, until each had its own."""
        daemons = self.processes["daemon"]
        for point in points:
            (self._points / point).touch()
        for _ in points:
            process = eventually(
                lambda: next((each for each in daemons if each.is_gone()), None),
                MET_SECONDS,
                f"a daemon comes to one of {[path.name for path in self._points.iterdir()]}",
            )
            process.start()
        for process in daemons:
            process.wait_until_it_answers()
        self.done.update(points)

    def restart_broker(self, *, politely: bool) -> None:
        """At a random moment while it is at work; it stays away for a while, and then has its port and its data."""
        before = delivered_to_kafka(self.store)
        eventually(lambda: delivered_to_kafka(self.store) > before, MET_SECONDS, "Kafka gets something")
        time.sleep(self.chance.random() / 2)
        if politely:
            self.broker.stop()
        else:
            self.broker.kill()
        time.sleep(self.chance.random() * AWAY_SECONDS)
        self.broker.start()
        self.done["kafka_stopped" if politely else "kafka_killed"] += 1

    def settle(self) -> None:
        """UsageBox has a good day from now on; wait until everything has arrived."""
        self.front.share = 0.0
        eventually(self._arrived, 120, "everything is delivered")

    def _arrived(self) -> bool:
        recorded = sum(self.recorded(customer) for customer in self.customers)
        sinks = self.store.deliveries.sinks()
        waits = not sinks or any(sink.pending or sink.attempted for sink in sinks)
        return recorded == sum(self.sent.values()) and not waits

    def false_alarms(self) -> list[str]:
        """Of losses, told by daemons whose Redis lost nothing."""
        lines = [line for daemon in self.processes["daemon"] for line in daemon.log.read_text().splitlines()]
        return [line for line in lines if "lost a tail" in line]

    def recorded(self, customer: str) -> int:
        return self.store.usage.total(customer, "tokens", 0, 2**62)

    def billed(self, customer: str) -> int:
        query = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "group_by": "meter_id", "source": "raw"}
        answer = httpx.get(f"{self.sandbox_url}/v1/accounts/{customer}/usage", params=query)
        return sum(group["sum"] for group in answer.json()["groups"])
