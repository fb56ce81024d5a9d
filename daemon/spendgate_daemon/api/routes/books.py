"""The three books of each customer: enforced, recorded, billed; compared again on demand."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from litestar import Request, get, post

from spendgate.errors import InvalidEvent
from spendgate.event import check_id
from spendgate.reasons import rfc3339
from spendgate_daemon.api.problems import Problem, invalid, not_found
from spendgate_daemon.api.reading import read_object
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.books.line import SENTENCES, Line, line_of
from spendgate_daemon.books.read import NotNow
from spendgate_daemon.books.reconcile import Repair
from spendgate_daemon.usagebox import UsageBoxError

_FIELDS: Final = frozenset({"customer_id", "dry_run"})


def handlers(services: Services) -> list[Any]:
    store = services.store

    async def shown(lines: list[Line]) -> list[dict[str, Any]]:
        ids = list({line.period.customer_id for line in lines})
        names = await asyncio.to_thread(store.customers.names, ids)
        return [_row(line, names) for line in lines]

    @get("/v1/books", opt={"scope": "read"})
    async def listed(request: Request[Any, Any, Any]) -> dict[str, Any]:
        query = Query(request, frozenset({"customer_id", "differs", "cursor", "limit"}))
        differs = query.one_of("differs", ("true", "false"), "false") == "true"
        try:
            page = await asyncio.to_thread(
                lambda: store.books.page(
                    limit=query.limit(),
                    cursor=query.text("cursor"),
                    customer_id=query.text("customer_id"),
                    differs=differs,
                )
            )
        except ValueError as exc:
            raise invalid("cursor", "a next_cursor of this list") from exc
        counts = await asyncio.to_thread(store.books.counts)
        oldest_us = counts.pop("oldest_compared_at_us")
        return {
            "items": await shown([line_of(each) for each in page.items]),
            "next_cursor": page.next_cursor,
            "counts": counts | {"oldest_compared_at": rfc3339(oldest_us) if oldest_us else None},
        }

    @post("/v1/books/reconcile", opt={"scope": "admin"}, status_code=200)
    async def reconcile(request: Request[Any, Any, Any]) -> dict[str, Any]:
        value = read_object(await request.body(), _FIELDS, "a customer to reconcile")
        customer_id, dry_run = value.get("customer_id"), value.get("dry_run", False)
        if type(dry_run) is not bool:
            raise invalid("dry_run", "true or false")
        try:
            check_id("customer_id", customer_id)
        except InvalidEvent as exc:
            raise invalid(exc.field, exc.expected) from exc
        if await asyncio.to_thread(store.customers.get, str(customer_id)) is None:
            raise not_found(f"there is no customer {customer_id!r}")
        try:
            done = await services.reconcile.customer(str(customer_id), dry_run=dry_run)
        except (NotNow, UsageBoxError) as exc:
            raise Problem(503, "not-now", "The books can't be compared now", str(exc)) from exc
        return {
            "customer_id": done.customer_id,
            "dry_run": dry_run,
            "lines": await shown(done.lines),
            "repairs": [_repair(each) for each in done.repairs],
            "unexplained": done.unexplained,
        }

    return [listed, reconcile]


def _row(line: Line, names: dict[str, str]) -> dict[str, Any]:
    period, billed = line.period, line.billed
    return {
        "customer_id": period.customer_id,
        "customer_name": names.get(period.customer_id, period.customer_id),
        "limit_id": period.limit_id,
        "meters": list(period.meters),
        "unit": period.unit,
        "period_start": rfc3339(period.start_seconds * 1_000_000),
        "period_end": rfc3339(period.end_seconds * 1_000_000),
        "enforced": line.enforced.used if line.enforced is not None else None,
        "recorded": line.recorded,
        "billed": billed.own if billed is not None else None,
        "external": billed.external if billed is not None else None,
        "differences": [
            {
                "between": each.between,
                "cause": each.cause,
                "quantity": each.quantity,
                "sentence": SENTENCES[each.cause],
            }
            for each in line.differences()
        ],
        "compared_at": rfc3339(line.compared_at_us),
    }


def _repair(repair: Repair) -> dict[str, Any]:
    return {"what": repair.what, "limit_id": repair.period.limit_id, "message": repair.message}
