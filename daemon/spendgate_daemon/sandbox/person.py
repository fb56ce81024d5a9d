"""What a person does in UsageBox's own pages, `/sandbox/v1`: contracts, credits, rollups; and what was told to UsageBox."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, delete, get, post, put
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.customers import CustomerChange, Customers
from spendgate_daemon.sandbox.meter import Meter
from spendgate_daemon.sandbox.reading import read_json


def person_routes(book: Book, meter: Meter, customers: Customers) -> list[Any]:
    @get("/sandbox/v1/customers/{customer_id:str}", sync_to_thread=False)
    def customer(customer_id: FromPath[str]) -> dict[str, Any]:
        return _found(customers.get(customer_id))

    @put("/sandbox/v1/customers/{customer_id:str}")
    async def change(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> dict[str, Any]:
        try:
            wanted = msgspec.json.decode(await request.body(), type=CustomerChange)
        except msgspec.MsgspecError as exc:
            raise HTTPException(str(exc), status_code=422) from exc
        return _found(customers.change(customer_id, wanted))

    @delete("/sandbox/v1/customers/{customer_id:str}", status_code=200, sync_to_thread=False)
    def remove(customer_id: FromPath[str]) -> dict[str, Any]:
        return {"removed": customers.remove(customer_id)}

    @post("/sandbox/v1/customers/{customer_id:str}/credits", status_code=200)
    async def grant(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> dict[str, Any]:
        body = await read_json(request)
        amount = body.get("amount") if isinstance(body, dict) else None
        if type(amount) is not int or amount <= 0:
            raise HTTPException("amount must be a whole number of credits above 0", status_code=422)
        current = _found(customers.get(customer_id))
        total = (current["credits_granted_total"] or 0) + amount
        return _found(customers.change(customer_id, CustomerChange(credits_granted_total=total), "credits.granted"))

    @get("/sandbox/v1/flag-events", sync_to_thread=False)
    def flag_events() -> dict[str, Any]:
        return {"items": [dict(row) for row in book.execute("SELECT * FROM flag_events ORDER BY rowid")]}

    @post("/sandbox/v1/rollups/rebuild", status_code=200, sync_to_thread=False)
    def rebuild() -> dict[str, Any]:
        meter.rebuild_rollups()
        return {"rebuilt": True}

    return [customer, change, remove, grant, flag_events, rebuild]


def _found(state: dict[str, Any] | None) -> dict[str, Any]:
    if state is None:
        raise HTTPException("no such customer; a new one needs a plan", status_code=404)
    return state
