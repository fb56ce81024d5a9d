"""The API over a real Redis and a real store, served over HTTP; a daemon's relays are driven by hand."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import redis
from standardwebhooks.webhooks import Webhook

from serving import serve
from spendgate import Gate
from spendgate.control import Control
from spendgate.keys import PARTITIONS
from spendgate_daemon.api import Services, create_app
from spendgate_daemon.books.read import Reader
from spendgate_daemon.books.reconcile import Reconcile
from spendgate_daemon.documents import load_document
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.policy_book import PolicyBook
from spendgate_daemon.mirror.terms import CustomerTerms
from spendgate_daemon.mirror.webhooks import WebhookReceiver
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.store import Store

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DOCUMENT = """version: 1
meters:
  ai_agent_run: {unit: run}
  tokens: {unit: token}
  gpu.seconds: {unit: second}
plans:
  basic:
    models: ["claude-*"]
    outage_allowance: 5%
    limits:
      - {kind: quota, id: tokens-month, meter: tokens, cap: contract, period: month, thresholds: [80]}
      - {kind: rate, id: runs-rate, meter: ai_agent_run, rate: 600/min, burst: 5}
      - {kind: per_event, id: context, meter: "*", max: 1000, field: context_window}
  careful:
    reservations: {above: reject}
    limits:
      - {kind: quota, id: tokens-month, meter: tokens, cap: contract, period: month}
  capped:
    reservations: {above: cap}
    limits:
      - {kind: quota, id: tokens-month, meter: tokens, cap: contract, period: month}
  prepaid:
    limits:
      - {kind: credits, id: wallet, weights: {tokens: {"*": 1000000}}}
      - {kind: quota, id: gpu-month, meter: gpu.seconds, cap: 99, period: month, anchor_day: contract, timezone: contract}
"""


def now_us() -> int:
    return time.time_ns() // 1000


class Api:
    """A running API and what a test does around it."""

    def __init__(self, run, control: Control, gate: Gate, store: Store) -> None:
        self.run, self.control, self.gate, self.store = run, control, gate, store
        self.ahead_us = 0  # of the API's clock
        book = PolicyBook(load_document(DOCUMENT), lambda: datetime.now(UTC))
        self.applier = Applier(control, store, book, now_us)
        self.relay = StoreRelay(control, store)
        run(self.applier.install_default())
        self.keys = {
            scope: store.keys.create(f"{scope}@test", [scope], now_us())
            for scope in ("decide", "usage", "read", "flags", "override", "admin")
        }

    def contract(self, customer="acme", plan="basic", **terms) -> None:
        given = {"caps": {"tokens": 1000}, "version": None} | terms
        self.run(
            self.applier.apply(
                "usagebox", [CustomerTerms(customer_id=customer, name=customer.title(), plan=plan, **given)]
            )
        )

    def headers(self, scope: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[scope]}"}

    def post(self, path, body=None, scope="decide", **extra) -> httpx.Response:
        headers = self.headers(scope) | extra.pop("headers", {})
        return self.http.post(path, json=body, headers=headers, **extra)

    def get(self, path, scope="read", **query) -> httpx.Response:
        return self.http.get(path, params=query, headers=self.headers(scope))

    def decide(self, quantity=1, *, customer="acme", meter="tokens", **fields) -> dict:
        event = {"customer_id": customer, "meter": meter, "quantity": quantity} | fields
        response = self.post("/v1/decisions", event)
        assert response.status_code == 200, response.text
        return response.json()

    def relay_all(self) -> int:
        stored = 0
        while done := self.run(self.relay.run_once()):
            stored += done
        return stored

    def outbox_entries(self) -> int:
        return len(self.run(self.control.read_outbox(dict.fromkeys(range(PARTITIONS), "0-0"), 10_000)))

    def signed(self, body: str, message_id: str) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(SECRET).sign(message_id, now, body),
        }


@contextlib.contextmanager
def running(run, url: str, database_url: str):
    """An installation on an empty Redis, and the API served over it with clients of its own."""
    store = Store.open(database_url)
    control, gate = Control.from_url(url), Gate.from_url(url, timeout_seconds=5)
    run(control.prepare())
    made = Api(run, control, gate, store)
    # The served app lives on another loop.
    served_control, served_gate = Control.from_url(url), Gate.from_url(url, timeout_seconds=5)
    made.services = Services(
        gate=served_gate,
        decider=served_gate,
        control=served_control,
        store=store,
        webhooks=WebhookReceiver((SECRET,), served_control),
        reconcile=Reconcile(
            Reader(served_gate, served_control, store, None, "spendgate/test", now_us),
            served_control,
            store,
            None,
            now_us,
        ),
        install_id="test",
        environment="test",
        sandbox=True,
        now_us=lambda: now_us() + made.ahead_us,
    )
    closing = [served_gate.aclose, served_control.aclose]
    with serve(create_app(made.services), closing) as base, httpx.Client(base_url=base, timeout=20) as http:
        made.http, made.url = http, base
        yield made
    run(gate.aclose())
    run(control.aclose())
    store.close()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """An empty store to copy: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    store = Store.open(f"sqlite:///{path}")
    store.close()
    return path


def copied(migrated: Path, folder: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated, folder / 'store.db')}"


@pytest.fixture
def api(run, redis_url, tmp_path, migrated):
    with running(run, redis_url, copied(migrated, tmp_path)) as made:
        yield made


@pytest.fixture(scope="module")
def standing_api(request, redis_server, tmp_path_factory, migrated):
    """For a module whose requests change nothing: one API with the customer `acme`, for all of its tests; on PostgreSQL
    where they say so."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    if getattr(request, "param", "sqlite") == "postgresql":
        url = request.getfixturevalue("new_postgres")()
    else:
        url = copied(migrated, tmp_path_factory.mktemp("standing"))
    with asyncio.Runner() as runner, running(runner.run, redis_server, url) as made:
        made.contract()
        yield made
