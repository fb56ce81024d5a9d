"""Sandboxes for tests, with a clock that tests set, asked over real HTTP without our client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from serving import serve
from spendgate_daemon.sandbox import create_sandbox

KEY = "ubx_test"
NOW = datetime(2026, 11, 18, 12, 30, tzinfo=UTC)

BOTH = {"quantity": 10, "unit": "token", "account_id": "acme", "meter_id": "tokens"}
HOSTED = BOTH | {"timestamp": "2026-11-18T12:10:00Z"}
USAGEDB = BOTH | {
    "kind": "Usage",
    "product_id": "api",
    "timestamp_ms": 1_795_003_800_000,
    "source": "gateway",
    "dimensions": {"inner": {}},
    "ingested_at_ms": 0,
}
"""Events with all that must be there and nothing else, ten minutes past the hour."""

CORRECTION = {"kind": "Correction", "correction_ref": {"original_event_id": "e", "reason": "twice"}, "quantity": -4}


class Sandbox:
    def __init__(self, http: httpx.Client, url: str, dialect: str) -> None:
        self.http, self.url, self.dialect = http, url, dialect
        self.now_ms = int(NOW.timestamp() * 1000)

    def event(self, event_id: str, *, at: datetime | None = None, **fields: Any) -> dict[str, Any]:
        event = (HOSTED if self.dialect == "hosted" else USAGEDB) | {"event_id": event_id}
        if at is not None:
            hosted = {"timestamp": at.isoformat()}
            event |= hosted if self.dialect == "hosted" else {"timestamp_ms": int(at.timestamp() * 1000)}
        return event | fields

    def send(self, *events: Any) -> tuple[int, int, int, int]:
        """Accepted, duplicates, conflicts, rejected."""
        answer = self.http.post("/v1/usage/batch", json={"events": list(events)})
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["accepted", "duplicates", "conflicts", "rejected"]
        return tuple(answer.json().values())

    def get(self, what: str, account: str = "acme", **query: Any) -> Any:
        answer = self.http.get(f"/v1/accounts/{account}/{what}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def total(self, start: str, end: str, **query: Any) -> int:
        span = {"from": start, "to": end}
        if self.dialect == "hosted":
            return sum(group["sum"] for group in self.get("usage", **span, **query)["groups"])
        return sum(int(line["quantity"]) for line in self.get("usage", **span, **query)["lines"])


@contextlib.contextmanager
def running_sandbox(path: Path, dialect: str = "hosted", **options: Any) -> Iterator[Sandbox]:
    headers = {"authorization": f"Bearer {KEY}", "x-api-key": KEY}
    made: list[Sandbox] = []
    app = create_sandbox(path, key=KEY, dialect=dialect, now_ms=lambda: made[0].now_ms, **options)
    with httpx.Client(headers=headers, timeout=20) as http:
        made.append(Sandbox(http, "", dialect))
        with serve(app) as url:
            http.base_url = made[0].url = url
            yield made[0]
