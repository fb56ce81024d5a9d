"""The sandbox's HTTP face: metering (`/v1`), catalog and policies (`/api/v1`), and what a person does (`/sandbox/v1`).

One SQLite file behind litestar routes; errors are plain text, as the engine gives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException

from spendgate_daemon.sandbox.audit import audit_routes
from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.catalog import catalog_routes
from spendgate_daemon.sandbox.customers import Customers
from spendgate_daemon.sandbox.meter import REMEMBERED_IDS, Meter
from spendgate_daemon.sandbox.metering import metering_routes
from spendgate_daemon.sandbox.person import person_routes
from spendgate_daemon.sandbox.policies import policy_routes
from spendgate_daemon.sandbox.webhooks import WebhookSender
from spendgate_daemon.usagebox.values import Dialect

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
"""As the engine's framework has it."""


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


def create_sandbox(
    path: Path | str,
    *,
    key: str | None,
    dialect: Dialect = "hosted",
    webhook_url: str | None = None,
    webhook_secret: str | None = None,
    now_ms: Callable[[], int] = clock_ms,
    remembered_ids: int = REMEMBERED_IDS,
    with_policies: bool = True,
) -> Litestar:
    """An app over the file at `path`, which serves either dialect. `usagedb` is the engine alone: it has no authentication,
    no catalog and no policies. `key` None: no authentication either; `with_policies` false: a hosted UsageBox whose
    policies nobody can ask for."""
    book = Book(path)
    meter = Meter(book, now_ms, remembered_ids)
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
        *metering_routes(meter, dialect),
        *audit_routes(book, meter, dialect),
        *(catalog_routes(book) if dialect == "hosted" else ()),
        *(policy_routes(book, customers) if dialect == "hosted" and with_policies else ()),
        *person_routes(book, meter, customers),
    ]
    return Litestar(
        route_handlers=handlers,
        lifespan=[deliver],
        before_request=_authentication(key, dialect),
        exception_handlers={HTTPException: _text_error, Exception: _internal_error},
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
    )


def _authentication(key: str | None, dialect: Dialect) -> Callable[[Request[Any, Any, Any]], Response[str] | None]:
    def check(request: Request[Any, Any, Any]) -> Response[str] | None:
        path = request.url.path
        if key is None or path == "/health" or (dialect == "usagedb" and path.startswith("/v1/")):
            return None
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = request.headers.get("x-api-key", "") if path.startswith("/api/") else bearer
        if secrets.compare_digest(given.encode(), key.encode()):
            return None
        return Response("Unauthorized", status_code=401, media_type="text/plain")

    return check


def _text_error(_request: Request[Any, Any, Any], exc: HTTPException) -> Response[str]:
    return Response(str(exc.detail), status_code=exc.status_code, media_type="text/plain")


def _internal_error(_request: Request[Any, Any, Any], exc: Exception) -> Response[str]:
    return Response(f"Internal server error: {exc}", status_code=500, media_type="text/plain")
