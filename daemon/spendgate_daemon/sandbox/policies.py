"""Policies and their flags, `/api/v1/policies`: our contract, see `usagebox/policies.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from litestar import Request, delete, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromQuery

from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.customers import Customers
from spendgate_daemon.sandbox.reading import read_json
from spendgate_daemon.usagebox.policies import FLAGS_PATH, POLICIES_PATH


def policy_routes(book: Book, customers: Customers) -> list[Any]:
    @get(POLICIES_PATH, sync_to_thread=False)
    def changed(updated_since: FromQuery[str] = "0") -> dict[str, Any]:
        if not updated_since.isdecimal():
            raise HTTPException("updated_since is not a cursor of this API", status_code=400)
        states, cursor = customers.changed_since(int(updated_since))
        return {"policies": states, "next_cursor": str(cursor)}

    @post(FLAGS_PATH, status_code=201)
    async def raise_flag(request: Request[Any, Any, Any]) -> dict[str, Any]:
        body = await _flag(request)
        if not all(isinstance(body.get(name), str) for name in ("reason", "decision_id", "occurred_at")):
            raise HTTPException("expected reason, decision_id and occurred_at", status_code=422)
        with book:
            if _is_new(book, request, "raised", body):
                values = (body["customer_id"], body["policy"], body["reason"], body["decision_id"], _now())
                book.execute("INSERT OR REPLACE INTO flags VALUES (?,?,?,?,?)", values)
        return body

    @delete(FLAGS_PATH, status_code=200)
    async def clear_flag(request: Request[Any, Any, Any]) -> dict[str, Any]:
        body = await _flag(request)
        with book:
            if _is_new(book, request, "cleared", body):
                values = (body["customer_id"], body["policy"])
                book.execute("DELETE FROM flags WHERE customer_id = ? AND policy = ?", values)
        return body

    return [changed, raise_flag, clear_flag]


async def _flag(request: Request[Any, Any, Any]) -> dict[str, Any]:
    if not request.headers.get("idempotency-key"):
        raise HTTPException("expected an Idempotency-Key header", status_code=400)
    body = await read_json(request)
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in ("customer_id", "policy")):
        raise HTTPException("expected an object with customer_id and policy", status_code=422)
    return body


def _is_new(book: Book, request: Request[Any, Any, Any], kind: str, body: dict[str, Any]) -> bool:
    """Whether this key comes for the first time; note it."""
    values = (
        f"{kind}:{request.headers['idempotency-key']}",
        kind,
        body["customer_id"],
        body["policy"],
        body.get("reason"),
        body.get("decision_id"),
        _now(),
    )
    return bool(book.execute("INSERT OR IGNORE INTO flag_events VALUES (?,?,?,?,?,?,?) RETURNING 1", values))


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
