"""The metering API, `/v1`: usage in, sums and events out."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from litestar import Request, get, post
from litestar.params import FromPath

from spendgate_daemon.sandbox.events import read_batch
from spendgate_daemon.sandbox.meter import Meter
from spendgate_daemon.sandbox.reading import read_body, read_span
from spendgate_daemon.usagebox.values import Dialect


def metering_routes(meter: Meter, dialect: Dialect) -> list[Any]:
    @get("/health", media_type="text/plain", sync_to_thread=False)
    def health() -> str:
        return "OK"

    @post("/v1/usage/batch", status_code=200)
    async def ingest(request: Request[Any, Any, Any]) -> dict[str, int]:
        return meter.ingest(read_batch(await read_body(request), dialect))

    @get("/v1/accounts/{account_id:str}/usage", sync_to_thread=False)
    def totals(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        query = request.query_params
        span = read_span(query)
        group_by = [name for part in query.get("group_by", "").split(",") if (name := part.strip())]
        filters = {name: query[name] for name in ("product_id", "meter_id", "model_id") if name in query}
        rollup = query.get("source") != "raw"
        rows = meter.totals(account_id, *span, group_by, filters, rollup=rollup)
        if dialect == "hosted":
            return {"source": "rollup" if rollup else "raw", "groups": [_hosted_group(row, group_by) for row in rows]}
        lines = [line(row, group_by) for row in rows]
        if not lines and not group_by:
            lines = [{"quantity": "0", "count": 0}]
        return {"watermark_ms": meter.watermark_ms, "lines": lines}

    @get("/v1/accounts/{account_id:str}/usage/events", sync_to_thread=False)
    def events(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        query = request.query_params
        found = meter.events(account_id, *read_span(query), dialect)
        for name in ("meter_id", "product_id"):
            if name in query:
                found = [event for event in found if event.get(name) == query[name]]
        return {"events": found}

    return [health, ingest, totals, events]


def _hosted_group(row: sqlite3.Row, group_by: Sequence[str]) -> dict[str, Any]:
    keys = {name: row[f"key{number}"] for number, name in enumerate(group_by)}
    if keys.get("day") is not None:
        keys["day"] = datetime.fromtimestamp(keys["day"] / 1000, UTC).date().isoformat()
    return keys | {"sum": row["sum"], "count": row["count"]}


def line(row: sqlite3.Row, group_by: Sequence[str]) -> dict[str, Any]:
    """In usageDb's dialect every key is text, and one that an event lacks is empty."""
    keys = {name: row[f"key{number}"] for number, name in enumerate(group_by)}
    texts = {name: "" if value is None else str(value) for name, value in keys.items()}
    return texts | {"quantity": str(row["sum"]), "count": row["count"]}
