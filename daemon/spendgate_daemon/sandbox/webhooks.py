"""Signed webhooks: queued in the same transaction as what they tell of, delivered until they are taken.

Signed as the Standard Webhooks specification says (https://www.standardwebhooks.com).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import structlog
from standardwebhooks.webhooks import Webhook

from spendgate_daemon.sandbox.book import Book

MAX_ATTEMPTS: Final = 20
MAX_BACKOFF_MS: Final = 60_000

_log = structlog.get_logger("spendgate.sandbox.webhooks")


class WebhookSender:
    """`url` None: nothing is sent, and nothing is queued."""

    def __init__(self, book: Book, url: str | None, secret: str | None, now_ms: Callable[[], int]) -> None:
        self._book = book
        self._url = url
        self._webhook = Webhook(secret) if secret else None
        self._now_ms = now_ms
        self._wake = asyncio.Event()

    def queue(self, kind: str, data: dict[str, Any]) -> None:
        """Call inside the transaction that made the change."""
        if self._url is None:
            return
        moment = datetime.fromtimestamp(self._now_ms() / 1000, UTC).isoformat().replace("+00:00", "Z")
        body = json.dumps({"type": kind, "timestamp": moment, "data": data})
        self._book.execute("INSERT INTO webhooks VALUES (?,?,0,?)", (f"msg_{uuid.uuid4().hex}", body, self._now_ms()))
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with httpx.AsyncClient(timeout=5) as http:
            while True:
                self._wake.clear()
                due = self._book.execute("SELECT * FROM webhooks WHERE due_ms <= ? LIMIT 100", (self._now_ms(),))
                for row in due:
                    await self._deliver(http, row["id"], row["body"], row["attempts"])
                if not due:
                    await self._wait()

    async def _wait(self) -> None:
        soonest = self._book.execute("SELECT MIN(due_ms) AS due_ms FROM webhooks")[0]["due_ms"]
        seconds = max(0.05, (soonest - self._now_ms()) / 1000) if soonest is not None else 60
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _deliver(self, http: httpx.AsyncClient, message_id: str, body: str, attempts: int) -> None:
        now = datetime.fromtimestamp(self._now_ms() / 1000, UTC)
        headers = {"content-type": "application/json", "webhook-id": message_id}
        headers["webhook-timestamp"] = str(int(now.timestamp()))
        if self._webhook is not None:
            headers["webhook-signature"] = self._webhook.sign(message_id, now, body)
        try:
            response = await http.post(self._url or "", content=body.encode(), headers=headers)
            taken = response.is_success
            cause = str(response.status_code)
        except httpx.HTTPError as exc:
            taken, cause = False, type(exc).__name__
        if taken or attempts + 1 >= MAX_ATTEMPTS:
            self._book.execute("DELETE FROM webhooks WHERE id = ?", (message_id,))
            if not taken:
                _log.error("webhook given up", id=message_id, cause=cause)
            return
        due_ms = self._now_ms() + min(MAX_BACKOFF_MS, 200 * 2**attempts)
        self._book.execute(
            "UPDATE webhooks SET attempts = ?, due_ms = ? WHERE id = ?", (attempts + 1, due_ms, message_id)
        )
