"""Puts the demo into a running sandbox, over HTTP, once.

A product in the sandbox's catalog remembers the instant that the history ends at and whether everything is in. An
interrupted seeding continues with that same instant: each event is made again, byte for byte, and the sandbox counts
what it has as duplicates. Customers come last, so that nobody sees one without its history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from spendgate_daemon.demo.contracts import contract_of
from spendgate_daemon.demo.customers import DEMO_CUSTOMERS, DemoCustomer
from spendgate_daemon.demo.history import HISTORY_DAYS, history_end, history_events
from spendgate_daemon.documents import load_default
from spendgate_daemon.usagebox import UsageBox, UsageBoxError, UsageEvent

PRODUCT_CODE: Final = "spendgate-demo"
BATCH_EVENTS: Final = 1000
BATCHES_AT_ONCE: Final = 2
TIMEOUT_SECONDS: Final = 30.0

Progress = Callable[[str, int, int], None]
"""Called with the step (`history`, `customers`), what is done of it, and how much it is in all."""


class DemoError(Exception):
    """The sandbox did not take the demo; starting again continues."""


class DemoReport(msgspec.Struct, frozen=True):
    """`created` False: the demo was there already and nothing was changed. `history_end` is the end of the history."""

    created: bool
    customers: int
    events: int
    history_end: datetime


async def seed_demo(
    sandbox_url: str, key: str | None, *, now: datetime, progress: Progress | None = None
) -> DemoReport:
    """Create the demo's history, catalog and customers unless they are there. Raises DemoError."""
    tell = progress or (lambda _step, _done, _total: None)
    headers = {"authorization": f"Bearer {key}", "x-api-key": key} if key else {}
    try:
        async with (
            httpx.AsyncClient(base_url=sandbox_url, headers=headers, timeout=TIMEOUT_SECONDS) as http,
            UsageBox(sandbox_url, key, dialect="hosted", timeout_seconds=TIMEOUT_SECONDS) as usagebox,
        ):
            return await _seed(http, usagebox, now, tell)
    except (httpx.HTTPError, UsageBoxError) as exc:
        raise DemoError(f"the sandbox at {sandbox_url} did not take the demo: {exc or type(exc).__name__}") from exc


async def _seed(http: httpx.AsyncClient, usagebox: UsageBox, now: datetime, tell: Progress) -> DemoReport:
    product = await _product(http)
    until = datetime.fromisoformat(product["history_end"]) if product is not None else history_end(now)
    if product is not None and product.get("complete"):
        return DemoReport(False, len(DEMO_CUSTOMERS), 0, until)
    begun = {"code": PRODUCT_CODE, "name": "AI platform (demo)", "history_end": until.isoformat(), "complete": False}
    await _post(http, "/api/v1/products", begun)
    history = await asyncio.to_thread(lambda: list(history_events(until)))
    await _send_history(usagebox, history, tell)
    # History is late by nature; the engine leaves late events out of its rollups until they are rebuilt.
    await _post(http, "/sandbox/v1/rollups/rebuild", {})
    await _create_catalog(http)
    by_customer: dict[str, list[UsageEvent]] = {customer.customer_id: [] for customer in DEMO_CUSTOMERS}
    for event in history:
        by_customer[event.account_id].append(event)
    for done, customer in enumerate(DEMO_CUSTOMERS):
        tell("customers", done, len(DEMO_CUSTOMERS))
        await _create_customer(http, customer, by_customer[customer.customer_id], now, until)
    tell("customers", len(DEMO_CUSTOMERS), len(DEMO_CUSTOMERS))
    await _post(http, "/api/v1/products", begun | {"complete": True})
    return DemoReport(True, len(DEMO_CUSTOMERS), len(history), until)


async def _send_history(usagebox: UsageBox, history: Sequence[UsageEvent], tell: Progress) -> None:
    done = 0
    batches = list(_batches(history))
    tell("history", 0, len(history))
    for first in range(0, len(batches), BATCHES_AT_ONCE):
        group = batches[first : first + BATCHES_AT_ONCE]
        results = await asyncio.gather(*(usagebox.send_usage(batch) for batch in group))
        refused = sum(result.rejected + result.conflicts for result in results)
        if refused:
            raise DemoError(f"the sandbox refused {refused} events of the demo's history; is it another demo's?")
        done += sum(map(len, group))
        tell("history", done, len(history))


def _batches(events: Sequence[UsageEvent]) -> Iterator[Sequence[UsageEvent]]:
    for first in range(0, len(events), BATCH_EVENTS):
        yield events[first : first + BATCH_EVENTS]


async def _create_catalog(http: httpx.AsyncClient) -> None:
    document = load_default()
    for name, plan in document.plans.items():
        body = {"code": name, "name": name.capitalize(), "product": PRODUCT_CODE, "description": plan.description}
        await _post(http, "/api/v1/plans", body)
    for name, meter in document.meters.items():
        await _post(http, "/api/v1/meters", {"code": name, "unit": meter.unit, "description": meter.description})


async def _create_customer(
    http: httpx.AsyncClient, customer: DemoCustomer, history: list[UsageEvent], now: datetime, until: datetime
) -> None:
    subscription = {
        "id": f"demo.{customer.customer_id}",
        "customer_id": customer.customer_id,
        "plan_id": customer.plan,
        "starts_at": until.astimezone(UTC).date().replace(day=1).isoformat(),
        "status": "active",
        "external_reference": f"{PRODUCT_CODE}, {HISTORY_DAYS} days of history",
    }
    await _post(http, "/api/v1/subscriptions", subscription)
    contract = contract_of(customer, history, now)
    body: dict[str, Any] = {"name": customer.name, "plan": customer.plan, "status": "active", "caps": contract.caps}
    if contract.credits_granted_total is not None:
        body["credits_granted_total"] = contract.credits_granted_total
    path = f"/sandbox/v1/customers/{quote(customer.customer_id, safe='')}"
    (await http.put(path, json=body)).raise_for_status()


async def _product(http: httpx.AsyncClient) -> dict[str, Any] | None:
    response = await http.get("/api/v1/products")
    response.raise_for_status()
    try:
        found: list[dict[str, Any]] = response.json()["products"]
    except (ValueError, KeyError, TypeError) as exc:
        raise DemoError("what answers there is no sandbox: it has no catalog of products") from exc
    return next((product for product in found if product.get("code") == PRODUCT_CODE), None)


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    (await http.post(path, json=body)).raise_for_status()
