"""The sandbox's own file: events, periods, customers, flags and the webhooks still to be delivered.

One SQLite database, written by one process; a batch is acknowledged after its commit, and a commit is fsynced.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from spendgate_daemon.sandbox.validation import ValidEvent, validate

HOUR_MS: Final = 3_600_000
ROLLUP_DELAY_MS: Final = 60_000
"""An hour is rolled up about this long after its end; what arrives later is missing from rollups until a rebuild."""

DEDUPE_WINDOW_MS: Final = 7 * 86_400_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    event_id TEXT PRIMARY KEY, content BLOB NOT NULL, kind TEXT NOT NULL, account_id TEXT NOT NULL,
    product_id TEXT, meter_id TEXT NOT NULL, model_id TEXT, unit TEXT NOT NULL, source TEXT,
    quantity INTEGER NOT NULL, at_ms INTEGER NOT NULL, ingested_ms INTEGER NOT NULL, rolled_up INTEGER NOT NULL,
    raw TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_account ON events (account_id, at_ms);
CREATE TABLE IF NOT EXISTS periods (
    account_id TEXT, month TEXT, quantity INTEGER, event_count INTEGER, PRIMARY KEY (account_id, month));
CREATE TABLE IF NOT EXISTS customers (
    customer_id TEXT PRIMARY KEY, name TEXT NOT NULL, plan TEXT NOT NULL, status TEXT NOT NULL,
    credits_granted_total INTEGER, caps TEXT NOT NULL, version INTEGER NOT NULL, changed INTEGER NOT NULL,
    updated_at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS customers_by_change ON customers (changed);
CREATE TABLE IF NOT EXISTS flags (
    customer_id TEXT, policy TEXT, reason TEXT, decision_id TEXT, raised_at TEXT, PRIMARY KEY (customer_id, policy));
CREATE TABLE IF NOT EXISTS flag_events (
    idempotency_key TEXT PRIMARY KEY, kind TEXT NOT NULL, customer_id TEXT NOT NULL, policy TEXT NOT NULL,
    reason TEXT, decision_id TEXT, received_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS webhooks (
    id TEXT PRIMARY KEY, body TEXT NOT NULL, attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS catalog (kind TEXT, id TEXT, body TEXT, PRIMARY KEY (kind, id));
"""

_COLUMNS: Final = {
    "product_id": "product_id",
    "meter_id": "meter_id",
    "model_id": "model_id",
    "source": "source",
    "unit": "unit",
    "day": "strftime('%Y-%m-%d', at_ms / 1000, 'unixepoch')",
    "hour_start_ms": f"at_ms - at_ms % {HOUR_MS}",
}


class Book:
    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def execute(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        return self._db.execute(query, values).fetchall()

    def __enter__(self) -> Self:
        self._db.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")

    def ingest(self, events: Sequence[Any], now_ms: int) -> dict[str, int]:
        """Count each event of a batch as accepted, duplicate, conflict or rejected; commit what is accepted."""
        counts = {"accepted": 0, "duplicates": 0, "conflicts": 0, "rejected": 0}
        with self:
            closed = {(row["account_id"], row["month"]) for row in self.execute("SELECT * FROM periods")}
            for raw in events:
                event = validate(raw)
                if event is None:
                    counts["rejected"] += 1
                    continue
                content = hashlib.sha256(event.canonical.encode()).digest()
                known = self.execute(
                    "SELECT content FROM events WHERE event_id = ? AND ingested_ms > ?",
                    (event.event_id, now_ms - DEDUPE_WINDOW_MS),
                )
                if known:
                    counts["duplicates" if known[0]["content"] == content else "conflicts"] += 1
                elif event.kind == "Usage" and (event.account_id, event.month) in closed:
                    counts["rejected"] += 1
                else:
                    self._insert(event, content, now_ms)
                    counts["accepted"] += 1
        return counts

    def _insert(self, event: ValidEvent, content: bytes, now_ms: int) -> None:
        hour_end_ms = event.at_ms - event.at_ms % HOUR_MS + HOUR_MS
        self._db.execute(
            "INSERT OR REPLACE INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                event.event_id,
                content,
                event.kind,
                event.account_id,
                event.product_id,
                event.meter_id,
                event.model_id,
                event.unit,
                event.source,
                event.quantity,
                event.at_ms,
                now_ms,
                int(now_ms < hour_end_ms + ROLLUP_DELAY_MS),
                event.canonical,
            ),
        )

    def rebuild_rollups(self) -> None:
        """What an operator does after late events."""
        with self:
            self._db.execute("UPDATE events SET rolled_up = 1 WHERE rolled_up = 0")

    def totals(
        self,
        account_id: str,
        from_ms: int,
        to_ms: int,
        group_by: Sequence[str],
        filters: Mapping[str, str],
        *,
        rollup: bool,
        now_ms: int,
    ) -> list[sqlite3.Row]:
        """Rows with the grouped columns, `sum` and `count`. Raises KeyError for a column that can't be grouped by.

        Rollups behave as the engine's do: an edge that is not a whole hour drops the first hour and adds the whole
        last one, and late events are missing.
        """
        keys = ", ".join(f"{_COLUMNS[name]} AS {name}" for name in group_by)
        conditions = ["account_id = :account"]
        if rollup:
            hour = f"(at_ms - at_ms % {HOUR_MS})"
            conditions += [f"{hour} >= :from_ms", f"{hour} < :to_ms"]
            conditions.append(f"(rolled_up = 1 OR {hour} + {HOUR_MS} > :now_ms)")
        else:
            conditions += ["at_ms >= :from_ms", "at_ms < :to_ms"]
        values: dict[str, Any] = {"account": account_id, "from_ms": from_ms, "to_ms": to_ms, "now_ms": now_ms}
        for name, value in filters.items():
            conditions.append(f"{_COLUMNS[name]} = :f_{name}")
            values[f"f_{name}"] = value
        numbers = ", ".join(str(index + 1) for index in range(len(group_by)))
        group = f" GROUP BY {numbers} ORDER BY {numbers}" if group_by else ""
        query = f"SELECT {keys + ', ' if keys else ''}SUM(quantity) AS sum, COUNT(*) AS count FROM events WHERE "  # noqa: S608  (columns are from a fixed table)
        rows = self.execute(query + " AND ".join(conditions) + group, values)
        return [row for row in rows if row["count"]]

    def events(self, account_id: str, from_ms: int, to_ms: int) -> list[dict[str, Any]]:
        query = "SELECT raw FROM events WHERE account_id = ? AND at_ms >= ? AND at_ms < ? ORDER BY at_ms, event_id"
        return [json.loads(row["raw"]) for row in self.execute(query, (account_id, from_ms, to_ms))]
