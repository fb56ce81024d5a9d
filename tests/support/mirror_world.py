"""A sandbox, a mirror on it, and a gate that enforces what it says."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx

from spendgate_daemon.documents import load_document
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.policy_book import PolicyBook
from spendgate_daemon.mirror.poll import Poll
from spendgate_daemon.mirror.resync import Resync
from spendgate_daemon.mirror.totals import UsageTotals
from spendgate_daemon.usagebox import UsageBox, UsageEvent

DOCUMENT = """version: 1
meters: {tokens: {unit: token}, runs: {unit: run}}
plans:
  basic:
    limits:
      - {kind: quota, id: month, meter: tokens, cap: contract, period: month}
  prepaid:
    limits:
      - {kind: credits, id: wallet, weights: {tokens: {"big-*": 2000000, "*": 1000000}}}
"""


def now_us() -> int:
    return time.time_ns() // 1000


class World:
    def __init__(self, run, control, gate, store, url) -> None:
        self.run, self.control, self.gate, self.store = run, control, gate, store
        self.usagebox = UsageBox(url, None)
        self.book = PolicyBook(load_document(DOCUMENT), lambda: datetime.now(UTC))
        self.applier = Applier(control, store, self.book, now_us)
        self.poll = Poll(control, gate, store, self.usagebox, self.applier, now_us)
        self.resync = Resync(store, self.usagebox, self.applier, now_us)
        self.totals = UsageTotals(control, gate, store, self.usagebox, "spendgate/test", now_us)
        self.person = httpx.Client(base_url=url)
        run(self.applier.install_default())

    def put(self, customer="acme", **terms):
        assert self.person.put(f"/sandbox/v1/customers/{customer}", json=terms).status_code == 200

    @staticmethod
    def person_at(url, customer, **terms):
        assert httpx.put(f"{url}/sandbox/v1/customers/{customer}", json=terms).status_code == 200

    def change_document(self, old, new):
        assert self.book.replace(load_document(DOCUMENT.replace(old, new)))

    def snapshot(self, customer="acme"):
        return self.run(self.gate.snapshot(customer))

    def decide(self, quantity, customer="acme", **fields):
        return self.run(self.gate.decide(customer, "tokens", quantity, **fields))

    def used_elsewhere(self, quantity, *, at=None, model=None, event_id="x1", source="other"):
        event = UsageEvent(
            event_id,
            "acme",
            "tokens",
            quantity,
            "token",
            int((at or datetime.now(UTC)).timestamp() * 1000),
            source,
            model,
        )
        assert self.run(self.usagebox.send_usage([event])).accepted == 1
