"""Ingest and sums, with the engine's traps: a memory of ids that ends, rollups that miss what is late, and rollup queries
that are wrong at edges inside of an hour."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.events import StoredEvent, shown
from spendgate_daemon.usagebox.values import Dialect

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
ROLLUP_DELAY_MS: Final = 60_000
"""An hour is rolled up about this long after its end; what arrives later is missing from rollups until a rebuild."""

REMEMBERED_MS: Final = 7 * DAY_MS
REMEMBERED_IDS: Final = 1_000_000
"""Of all accounts together."""

_COLUMNS: Final = {
    **{name: name for name in ("product_id", "meter_id", "model_id", "subscription_id", "source", "unit")},
    "day": f"at_ms - at_ms % {DAY_MS}",
    "hour_start_ms": f"at_ms - at_ms % {HOUR_MS}",
}


class Meter:
    def __init__(self, book: Book, now_ms: Callable[[], int], remembered_ids: int = REMEMBERED_IDS) -> None:
        self._book = book
        self._now_ms = now_ms
        self._remembered_ids = remembered_ids

    @property
    def watermark_ms(self) -> int:
        """Hours before this are rolled up."""
        now_ms = self._now_ms() - ROLLUP_DELAY_MS
        return now_ms - now_ms % HOUR_MS

    def ingest(self, events: Sequence[StoredEvent | None]) -> dict[str, int]:
        """Count each event of a batch as accepted, duplicate, conflict or rejected; commit what is accepted. A closed
        period is looked at first: a duplicate in one is rejected."""
        counts = {"accepted": 0, "duplicates": 0, "conflicts": 0, "rejected": 0}
        now_ms, watermark_ms = self._now_ms(), self.watermark_ms
        with self._book as book:
            closed = {(row["account_id"], row["month"]) for row in book.execute("SELECT * FROM closed_periods")}
            [last] = book.execute("SELECT COALESCE(MAX(position), 0) AS position FROM ingested")
            position = last["position"]
            for event in events:
                if event is None or (event.kind == "Usage" and (event.account_id, event.month) in closed):
                    counts["rejected"] += 1
                    continue
                canonical = event.canonical()
                known = book.execute(
                    "SELECT canonical FROM ingested WHERE event_id = ? AND ingested_ms > ? AND position > ? "
                    "ORDER BY position DESC LIMIT 1",
                    (event.event_id, now_ms - REMEMBERED_MS, position - self._remembered_ids),
                )
                if known:
                    counts["duplicates" if known[0]["canonical"] == canonical else "conflicts"] += 1
                    continue
                self._insert(event, canonical, now_ms, rolled_up=event.timestamp_ms >= watermark_ms)
                position += 1
                counts["accepted"] += 1
        return counts

    def _insert(self, event: StoredEvent, canonical: str, now_ms: int, *, rolled_up: bool) -> None:
        self._book.execute(
            "INSERT INTO ingested VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                event.event_id,
                event.account_id,
                event.kind,
                event.subscription_id,
                event.product_id,
                event.meter_id,
                event.model_id,
                event.unit,
                event.source,
                json.dumps(event.dimensions, sort_keys=True),
                event.quantity,
                event.timestamp_ms,
                now_ms,
                int(rolled_up),
                canonical,
            ),
        )

    def rebuild_rollups(self) -> None:
        """What an operator does after late events."""
        self._book.execute("UPDATE ingested SET rolled_up = 1 WHERE rolled_up = 0")

    def totals(
        self,
        account_id: str,
        from_ms: int,
        to_ms: int,
        group_by: Sequence[str],
        filters: Mapping[str, str],
        *,
        rollup: bool,
    ) -> list[sqlite3.Row]:
        """Rows with the grouped columns as `key0`, `key1`, ..., `sum` and `count`; a name that is no column is a
        dimension's. Rollups count rows of their own, which are one per hour and combination of columns."""
        values: dict[str, Any] = {"account": account_id, "from_ms": from_ms, "to_ms": to_ms}
        values["watermark_ms"] = self.watermark_ms
        rolled = (
            f"(at_ms < :watermark_ms AND rolled_up = 1 AND {_COLUMNS['hour_start_ms']} >= :from_ms "
            f"AND {_COLUMNS['hour_start_ms']} < :to_ms)"
        )
        exact = "(at_ms >= :from_ms AND at_ms < :to_ms)"
        within = f"({rolled} OR (at_ms >= :watermark_ms AND {exact}))" if rollup else exact
        conditions = ["account_id = :account", within]
        for number, (name, value) in enumerate(filters.items()):
            conditions.append(f"{_COLUMNS[name]} = :filter{number}")
            values[f"filter{number}"] = value
        keys = []
        for number, name in enumerate(group_by):
            keys.append(_COLUMNS.get(name, f"json_extract(dimensions, :path{number})") + f" AS key{number}")
            values[f"path{number}"] = "$." + json.dumps(name)
        columns = ", ".join(_COLUMNS[name] for name in ("product_id", "meter_id", "model_id", "subscription_id"))
        row = f"{_COLUMNS['hour_start_ms']} || json_array({columns}, unit, source, dimensions)"
        counted = (
            f"COUNT(DISTINCT CASE WHEN at_ms < :watermark_ms THEN {row} ELSE position END)" if rollup else "COUNT(*)"
        )
        numbers = ", ".join(str(index + 1) for index in range(len(group_by)))
        group = f" GROUP BY {numbers} ORDER BY {numbers}" if group_by else ""
        query = f"SELECT {', '.join([*keys, 'SUM(quantity) AS sum', f'{counted} AS count'])} FROM ingested WHERE "  # noqa: S608  (columns are from a fixed table)
        rows = self._book.execute(query + " AND ".join(conditions) + group, values)
        return [row for row in rows if row["count"]]

    def total(self, account_id: str, from_ms: int, to_ms: int, *, rollup: bool) -> tuple[int, int]:
        """Sum and count of everything."""
        rows = self.totals(account_id, from_ms, to_ms, [], {}, rollup=rollup)
        return (rows[0]["sum"], rows[0]["count"]) if rows else (0, 0)

    def events(
        self, account_id: str, from_ms: int, to_ms: int, dialect: Dialect, *, after: int = 0, corrections: bool = False
    ) -> list[dict[str, Any]]:
        """Events as the dialect shows them; those ingested after a position, or those that are no plain usage."""
        rows = self._book.execute(
            "SELECT canonical, ingested_ms FROM ingested WHERE account_id = ? AND at_ms >= ? AND at_ms < ? AND position > ? "
            "AND (kind <> 'Usage' OR NOT ?) ORDER BY at_ms, position",
            (account_id, from_ms, to_ms, after, corrections),
        )
        return [shown(row["canonical"], row["ingested_ms"], dialect) for row in rows]
