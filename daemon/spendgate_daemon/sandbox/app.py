"""The sandbox's HTTP face: metering (`/v1`), catalog and policies (`/api/v1`), and what a person does (`/sandbox/v1`).

One SQLite file behind litestar routes; errors are plain text, as the engine gives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response, delete, get, post, put
from litestar.exceptions import HTTPException
from litestar.params import FromPath, FromQuery

from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.customers import CustomerChange, Customers
from spendgate_daemon.sandbox.webhooks import WebhookSender
from spendgate_daemon.usagebox.values import Dialect

MAX_BODY_BYTES: Final = 8 * 1024 * 1024


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def create_sandbox(
    path: Path | str,
    *,
    key: str | None,
    dialect: Dialect = "hosted",
    webhook_url: str | None = None,
    webhook_secret: str | None = None,
) -> Litestar:
    """An app over the file at `path`. `key` None: no authentication, as the engine alone. `dialect` chooses the shape
    of totals; events are understood in both."""
    book = Book(path)
    webhooks = WebhookSender(book, webhook_url, webhook_secret, now_ms)
    customers = Customers(book, webhooks)

    @contextlib.asynccontextmanager
    async def deliver(_app: Litestar) -> AsyncIterator[None]:
        task = asyncio.create_task(webhooks.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        book.close()

    handlers = [
        *_metering(book, dialect),
        *_periods(book),
        *_catalog(book),
        *_policies(book, customers),
        *_person(book, customers),
    ]
    return Litestar(
        route_handlers=handlers,
        lifespan=[deliver],
        before_request=_authentication(key),
        exception_handlers={HTTPException: _text_error, Exception: _internal_error},
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
    )


def _metering(book: Book, dialect: Dialect) -> list[Any]:
    @get("/health", media_type="text/plain", sync_to_thread=False)
    def health() -> str:
        return "OK"

    @post("/v1/usage/batch", status_code=200)
    async def ingest(request: Request[Any, Any, Any]) -> dict[str, int]:
        body = await _json(request)
        if not isinstance(body, dict) or not isinstance(body.get("events"), list):
            raise HTTPException("expected an object with `events`, a list", status_code=422)
        return book.ingest(body["events"], now_ms())

    @get("/v1/accounts/{account_id:str}/usage", sync_to_thread=False)
    def totals(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        query = request.query_params
        group_by = [name for name in (query.get("group_by") or "").split(",") if name]
        filters = {name: query[name] for name in ("product_id", "meter_id", "model_id") if name in query}
        rollup = query.get("source", "rollup") == "rollup"
        from_ms, to_ms = _range(query.get("from"), query.get("to"))
        try:
            rows = book.totals(account_id, from_ms, to_ms, group_by, filters, rollup=rollup, now_ms=now_ms())
        except KeyError as exc:
            raise HTTPException(f"Internal server error: unknown column {exc}", status_code=500) from exc
        if dialect == "hosted":
            return {"source": "rollup" if rollup else "raw", "groups": [dict(row) for row in rows]}
        lines = [
            {name: row[name] for name in group_by} | {"quantity": str(row["sum"]), "count": row["count"]}
            for row in rows
        ]
        return {"watermark_ms": now_ms(), "lines": lines}

    @get("/v1/accounts/{account_id:str}/usage/events", sync_to_thread=False)
    def events(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        query = request.query_params
        found = book.events(account_id, *_range(query.get("from"), query.get("to")))
        for name in ("meter_id", "product_id"):
            if name in query:
                found = [event for event in found if event.get(name) == query[name]]
        return {"events": found}

    @get("/v1/accounts/{account_id:str}/explain", sync_to_thread=False)
    def explain(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        span = _range(request.query_params.get("from"), request.query_params.get("to"))
        columns = ["product_id", "meter_id", "model_id", "source", "unit"]
        rows = book.totals(account_id, *span, columns, {}, rollup=False, now_ms=now_ms())
        corrections = [event for event in book.events(account_id, *span) if event.get("kind", "Usage") != "Usage"]
        lines = [{name: row[name] for name in columns} | {"quantity": str(row["sum"])} for row in rows]
        return {"lines": lines, "corrections": corrections, "segments": [{"name": "sandbox", "sealed": False}]}

    @get("/v1/accounts/{account_id:str}/verify", sync_to_thread=False)
    def verify(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        span = _range(request.query_params.get("from"), request.query_params.get("to"))
        raw, rolled = (
            sum(row["sum"] for row in book.totals(account_id, *span, [], {}, rollup=rollup, now_ms=now_ms()))
            for rollup in (False, True)
        )
        return {
            "raw_total": str(raw),
            "rollup_total": str(rolled),
            "drift": str(raw - rolled),
            "matches": raw == rolled,
            "period_sealed": False,
        }

    return [health, ingest, totals, events, explain, verify]


def _periods(book: Book) -> list[Any]:
    path = "/v1/accounts/{account_id:str}/periods/{month:str}"

    @get(path, sync_to_thread=False)
    def period(account_id: FromPath[str], month: FromPath[str]) -> dict[str, Any]:
        return _period(book, account_id, month)

    @post(f"{path}/close", status_code=200, sync_to_thread=False)
    def close(account_id: FromPath[str], month: FromPath[str]) -> dict[str, Any]:
        from_ms, to_ms = _month(month)
        rows = book.totals(account_id, from_ms, to_ms, [], {}, rollup=False, now_ms=now_ms())
        total, count = (rows[0]["sum"], rows[0]["count"]) if rows else (0, 0)
        with book:
            book.execute("INSERT OR IGNORE INTO periods VALUES (?,?,?,?)", (account_id, month, total, count))
        return _period(book, account_id, month)

    @post(f"{path}/reopen", status_code=200, sync_to_thread=False)
    def reopen(account_id: FromPath[str], month: FromPath[str]) -> dict[str, Any]:
        with book:
            book.execute("DELETE FROM periods WHERE account_id = ? AND month = ?", (account_id, month))
        return _period(book, account_id, month)

    return [period, close, reopen]


def _period(book: Book, account_id: str, month: str) -> dict[str, Any]:
    from_ms, to_ms = _month(month)
    rows = book.totals(account_id, from_ms, to_ms, [], {}, rollup=False, now_ms=now_ms())
    total = rows[0]["sum"] if rows else 0
    closed = book.execute("SELECT * FROM periods WHERE account_id = ? AND month = ?", (account_id, month))
    if not closed:
        return {"state": "Open", "total_quantity": str(total)}
    frozen = closed[0]
    later = [event for event in book.events(account_id, from_ms, to_ms) if event.get("kind", "Usage") != "Usage"]
    return {
        "state": "Closed",
        "frozen": {"quantity": str(frozen["quantity"]), "event_count": frozen["event_count"]},
        "pending_adjustments": later,
        "adjustments_quantity": str(total - frozen["quantity"]),
        "net_total": str(total),
    }


def _catalog(book: Book) -> list[Any]:
    @get("/api/v1/{kind:str}", sync_to_thread=False)
    def listed(kind: FromPath[str]) -> dict[str, Any]:
        if kind not in ("products", "plans", "meters", "subscriptions"):
            raise HTTPException("no such resource", status_code=404)
        rows = book.execute("SELECT body FROM catalog WHERE kind = ? ORDER BY id", (kind,))
        return {kind: [msgspec.json.decode(row["body"]) for row in rows]}

    @post("/api/v1/{kind:str}", status_code=201)
    async def create(request: Request[Any, Any, Any], kind: FromPath[str]) -> dict[str, Any]:
        body = await _json(request)
        if kind == "usage":
            if not isinstance(body, list):
                raise HTTPException("expected a list", status_code=422)
            return {"message": "Usage batch accepted"}
        if kind not in ("products", "plans", "meters", "subscriptions") or not isinstance(body, dict):
            raise HTTPException("no such resource, or not an object", status_code=404)
        made = body | {"id": str(body.get("code") or body.get("id") or secrets.token_hex(6))}
        with book:
            text = msgspec.json.encode(made).decode()
            book.execute("INSERT OR REPLACE INTO catalog VALUES (?,?,?)", (kind, made["id"], text))
        return made

    return [listed, create]


def _policies(book: Book, customers: Customers) -> list[Any]:
    @get("/api/v1/policies", sync_to_thread=False)
    def changed(updated_since: FromQuery[str] = "0") -> dict[str, Any]:
        if not updated_since.isdigit():
            raise HTTPException("updated_since is not a cursor of this API", status_code=400)
        states, cursor = customers.changed_since(int(updated_since))
        return {"policies": states, "next_cursor": str(cursor)}

    async def keep(request: Request[Any, Any, Any], kind: str) -> dict[str, Any]:
        body = await _json(request)
        key = request.headers.get("idempotency-key")
        if (
            not key
            or not isinstance(body, dict)
            or not all(isinstance(body.get(n), str) for n in ("customer_id", "policy"))
        ):
            raise HTTPException("expected customer_id, policy and an Idempotency-Key header", status_code=422)
        moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        with book:
            if book.execute("SELECT 1 FROM flag_events WHERE idempotency_key = ?", (f"{kind}:{key}",)):
                return body
            book.execute(
                "INSERT INTO flag_events VALUES (?,?,?,?,?,?,?)",
                (
                    f"{kind}:{key}",
                    kind,
                    body["customer_id"],
                    body["policy"],
                    body.get("reason"),
                    body.get("decision_id"),
                    moment,
                ),
            )
            if kind == "raised":
                values = (body["customer_id"], body["policy"], body.get("reason"), body.get("decision_id"), moment)
                book.execute("INSERT OR REPLACE INTO flags VALUES (?,?,?,?,?)", values)
            else:
                book.execute(
                    "DELETE FROM flags WHERE customer_id = ? AND policy = ?", (body["customer_id"], body["policy"])
                )
        return body

    @post("/api/v1/policies/flags", status_code=201)
    async def raise_flag(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return await keep(request, "raised")

    @delete("/api/v1/policies/flags", status_code=200)
    async def clear_flag(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return await keep(request, "cleared")

    return [changed, raise_flag, clear_flag]


def _person(book: Book, customers: Customers) -> list[Any]:
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

    @post("/sandbox/v1/customers/{customer_id:str}/credits", status_code=200)
    async def grant(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> dict[str, Any]:
        body = await _json(request)
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
        book.rebuild_rollups()
        return {"rebuilt": True}

    return [customer, change, grant, flag_events, rebuild]


def _found(state: dict[str, Any] | None) -> dict[str, Any]:
    if state is None:
        raise HTTPException("no such customer; a new one needs a plan", status_code=404)
    return state


def _authentication(key: str | None) -> Callable[[Request[Any, Any, Any]], Response[str] | None]:
    def check(request: Request[Any, Any, Any]) -> Response[str] | None:
        if key is None or request.url.path == "/health":
            return None
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = request.headers.get("x-api-key", "") if request.url.path.startswith("/api/") else bearer
        if secrets.compare_digest(given.encode(), key.encode()):
            return None
        return Response("Unauthorized", status_code=401, media_type="text/plain")

    return check


async def _json(request: Request[Any, Any, Any]) -> Any:
    try:
        return msgspec.json.decode(await request.body())
    except msgspec.MsgspecError as exc:
        raise HTTPException(f"Failed to parse the request body as JSON: {exc}", status_code=400) from exc


def _range(start: str | None, end: str | None) -> tuple[int, int]:
    try:
        instants = [datetime.fromisoformat(text or "") for text in (start, end)]
    except ValueError as exc:
        raise HTTPException("Internal server error: invalid from/to", status_code=500) from exc
    from_ms, to_ms = (round(instant.timestamp() * 1000) for instant in instants)
    return from_ms, to_ms


def _month(month: str) -> tuple[int, int]:
    try:
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as exc:
        raise HTTPException("a period is YYYY-MM", status_code=400) from exc
    end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp() * 1000), int(end.timestamp() * 1000)


def _text_error(_request: Request[Any, Any, Any], exc: HTTPException) -> Response[str]:
    return Response(str(exc.detail), status_code=exc.status_code, media_type="text/plain")


def _internal_error(_request: Request[Any, Any, Any], exc: Exception) -> Response[str]:
    return Response(f"Internal server error: {exc}", status_code=500, media_type="text/plain")
