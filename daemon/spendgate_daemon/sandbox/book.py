"""The sandbox's own file: events, periods, customers, flags and the webhooks still to be delivered.

One SQLite database, written by one process; a batch is acknowledged after its commit, and a commit is fsynced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS ingested (
    position INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, account_id TEXT NOT NULL, kind TEXT NOT NULL,
    subscription_id TEXT, product_id TEXT, meter_id TEXT NOT NULL, model_id TEXT, unit TEXT NOT NULL, source TEXT,
    dimensions TEXT NOT NULL, quantity INTEGER NOT NULL, at_ms INTEGER NOT NULL, ingested_ms INTEGER NOT NULL,
    rolled_up INTEGER NOT NULL, canonical TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS ingested_by_event ON ingested (event_id, position);
CREATE INDEX IF NOT EXISTS ingested_by_account ON ingested (account_id, at_ms);
CREATE TABLE IF NOT EXISTS closed_periods (
    account_id TEXT, month TEXT, quantity INTEGER NOT NULL, event_count INTEGER NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (account_id, month));
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


class Book:
    """As a context manager, a transaction."""

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
