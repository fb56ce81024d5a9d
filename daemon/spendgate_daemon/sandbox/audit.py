"""What the engine says of its own sums: explain, verify, and the periods that it closed."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, get, post
from litestar.params import FromPath

from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.meter import Meter
from spendgate_daemon.sandbox.metering import line
from spendgate_daemon.sandbox.reading import read_month, read_span
from spendgate_daemon.usagebox.values import Dialect

EXPLAINED: Final = ("product_id", "meter_id", "model_id", "source", "unit")


def audit_routes(book: Book, meter: Meter, dialect: Dialect) -> list[Any]:
    return [*_sums(meter, dialect), *_periods(book, meter, dialect)]


def _sums(meter: Meter, dialect: Dialect) -> list[Any]:
    @get("/v1/accounts/{account_id:str}/explain", sync_to_thread=False)
    def explain(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        from_ms, to_ms = read_span(request.query_params)
        rows = meter.totals(account_id, from_ms, to_ms, EXPLAINED, {}, rollup=True)
        return {
            "account_id": account_id,
            "from_ms": from_ms,
            "to_ms": to_ms,
            "watermark_ms": meter.watermark_ms,
            "lines": [line(row, EXPLAINED) for row in rows],
            "rollup_segments": ["sandbox-rollup"],
            "rollup_inputs": {"sandbox-rollup": ["sandbox-raw"]},
            "raw_segments": ["sandbox-raw"],
            "corrections": meter.events(account_id, from_ms, to_ms, dialect, corrections=True),
        }

    @get("/v1/accounts/{account_id:str}/verify", sync_to_thread=False)
    def verify(request: Request[Any, Any, Any], account_id: FromPath[str]) -> dict[str, Any]:
        from_ms, to_ms = read_span(request.query_params)
        raw, rolled = (meter.total(account_id, from_ms, to_ms, rollup=rollup)[0] for rollup in (False, True))
        return {
            "account_id": account_id,
            "from_ms": from_ms,
            "to_ms": to_ms,
            "watermark_ms": meter.watermark_ms,
            "period_sealed": to_ms <= meter.watermark_ms,
            "raw_total": str(raw),
            "rollup_total": str(rolled),
            "drift": str(raw - rolled),
            "matches": raw == rolled,
        }

    return [explain, verify]


def _periods(book: Book, meter: Meter, dialect: Dialect) -> list[Any]:
    path = "/v1/accounts/{account_id:str}/periods/{month:str}"

    @get(path, sync_to_thread=False)
    def period(account_id: FromPath[str], month: FromPath[str]) -> dict[str, Any]:
        span = read_month(month)
        told: dict[str, Any] = {"account_id": account_id, "period": month, "from_ms": span[0], "to_ms": span[1]}
        total, _ = meter.total(account_id, *span, rollup=False)
        closed = book.execute("SELECT * FROM closed_periods WHERE account_id = ? AND month = ?", (account_id, month))
        if not closed:
            return told | {"state": "Open", "total_quantity": str(total)}
        [frozen] = closed
        return told | {
            "state": "Closed",
            "frozen": {"quantity": str(frozen["quantity"]), "event_count": frozen["event_count"]},
            "pending_adjustments": meter.events(account_id, *span, dialect, after=frozen["position"]),
            "adjustments_quantity": str(total - frozen["quantity"]),
            "net_total": str(total),
        }

    @post(f"{path}/close", status_code=200, sync_to_thread=False)
    def close(account_id: FromPath[str], month: FromPath[str]) -> dict[str, Any]:
        frozen = meter.total(account_id, *read_month(month), rollup=False)
        with book:
            [last] = book.execute("SELECT COALESCE(MAX(position), 0) AS position FROM ingested")
            values = (account_id, month, *frozen, last["position"])
            already = not book.execute("INSERT OR IGNORE INTO closed_periods VALUES (?,?,?,?,?) RETURNING 1", values)
        told = {"account_id": account_id, "period": month, "state": "Closed"}
        return told | ({"already_closed": True} if already else {})

    @post(f"{path}/reopen", status_code=200, sync_to_thread=False)
    def reopen(account_id: FromPath[str], month: FromPath[str]) -> dict[str, Any]:
        read_month(month)
        removed = book.execute(
            "DELETE FROM closed_periods WHERE account_id = ? AND month = ? RETURNING 1", (account_id, month)
        )
        return {"account_id": account_id, "period": month, "state": "Open", "removed": bool(removed)}

    return [period, close, reopen]
