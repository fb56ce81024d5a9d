"""Load on the APIs: events are sent until they are allowed, each under one id, so what was sent is what every book must have."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from acceptance_product import eventually
from killed_process import KilledProcess

SENDERS = 4
QUANTITY_MAX = 50
CUSTOMERS = tuple(f"customer-{number}" for number in range(6))
PLENTY = 10**9
SCARCE = "customer-scarce"
"""Stopped again and again, until more is bought: what the guardrail events are about. It has a sender of its own."""

SCARCE_STEP = 1000


class Senders:
    """`contract` sets a customer's cap in UsageBox. After each event, a sender rests for `pause_seconds`."""

    def __init__(
        self,
        apis: Sequence[KilledProcess],
        key: str,
        contract: Callable[[str, int], None],
        chance: random.Random,
        pause_seconds: float,
    ) -> None:
        self.sent: Counter[str] = Counter()
        self._apis, self._key, self._contract = apis, key, contract
        self._chance, self._pause_seconds = chance, pause_seconds
        self._bought = 0
        self._working: list[Future[None]] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """After the block every event that was begun has its answer."""
        shares = [*([CUSTOMERS] * SENDERS), [SCARCE]]
        with ThreadPoolExecutor(len(shares)) as pool:
            self._working = [pool.submit(self._send, number, customers) for number, customers in enumerate(shares)]
            try:
                yield
            finally:
                self._stopping.set()
            for sender in self._working:
                sender.result(90)

    def check(self) -> None:
        """Raise what ended one of them: without load, the rest proves nothing."""
        for sender in self._working:
            if sender.done():
                sender.result()

    def _send(self, sender: int, customers: Sequence[str]) -> None:
        chance, number = random.Random(sender), 0
        with httpx.Client(headers={"authorization": f"Bearer {self._key}"}, timeout=10) as http:
            while not self._stopping.wait(self._pause_seconds):
                number += 1
                customer, quantity = chance.choice(customers), chance.randint(1, QUANTITY_MAX)
                event = {
                    "event_id": f"{sender}-{number}",
                    "customer_id": customer,
                    "meter": "tokens",
                    "quantity": quantity,
                }
                eventually(lambda event=event: self._allowed(http, event), 60, f"an answer to {event}")
                with self._lock:
                    self.sent[customer] += quantity

    def _allowed(self, http: httpx.Client, event: dict) -> bool:
        """By either API: an event that one didn't answer may be asked of the other. Where all is used up, more is bought."""
        api = self._chance.choice(self._apis)
        try:
            answer = http.post(f"http://127.0.0.1:{api.port}/v1/decisions", json=event)
        except httpx.HTTPError:
            return False
        if answer.status_code == 503:
            return False
        assert answer.status_code == 200, answer.text
        if answer.json()["decision"] == "stop" and event["customer_id"] == SCARCE:
            self._buy(self.sent[SCARCE] + event["quantity"])
            return False
        assert answer.json()["decision"] == "allow", answer.text
        return True

    def _buy(self, wanted: int) -> None:
        """Once: it is known a moment later."""
        if wanted > self._bought:
            self._bought = (wanted // SCARCE_STEP + 1) * SCARCE_STEP
            self._contract(SCARCE, self._bought)
