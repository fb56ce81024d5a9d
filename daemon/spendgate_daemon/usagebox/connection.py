"""One way to UsageBox for all operations: a connection pool, a deadline on everything, a breaker and a pace.

Nothing is sent twice here except reads: usage and flags are repeated by the relays, which remember what they sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import msgspec
import stamina

from spendgate_daemon.usagebox.breaker import Breaker, Outcome
from spendgate_daemon.usagebox.errors import UsageBoxHeld, UsageBoxRefused, UsageBoxUnavailable
from spendgate_daemon.usagebox.metrics import BREAKER, READ_RATE, REQUESTS
from spendgate_daemon.usagebox.pace import Pace, retry_after_seconds

READ_ATTEMPTS: Final = 3
CONNECTIONS_MAX: Final = 16


class Connection:
    """`key` goes out as a bearer and as `x-api-key`; None where there is no authentication. `timeout_seconds` is the whole
    of one request, from connecting to the last byte."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        timeout_seconds: float,
        breaker: Breaker | None = None,
        pace: Pace | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {key}", "x-api-key": key} if key else {}
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX)
        self.breaker = breaker or Breaker()
        self.pace = pace or Pace()
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout_seconds, limits=limits)
        self._show()

    @property
    def host(self) -> str:
        """For display: the address without path or credentials."""
        return self._http.base_url.netloc.decode()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def read(self, operation: str, path: str, query: Mapping[str, str]) -> httpx.Response:
        """A GET at its turn, repeated a little when nobody answered. Raises UsageBoxError."""
        async for attempt in stamina.retry_context(
            on=_passes, attempts=READ_ATTEMPTS, timeout=self._timeout_seconds, wait_initial=0.05, wait_max=1.0
        ):
            with attempt:
                response = await self._request(operation, "GET", path, is_read=True, query=query)
                self.pace.took()
                return response
        raise AssertionError("retry_context ends with a return or an error")

    async def send(
        self, operation: str, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """A request that may change something: once. Raises UsageBoxError."""
        return await self._request(operation, method, path, body=body, headers=headers)

    async def _request(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        is_read: bool = False,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        content = msgspec.json.encode(body) if body is not None else None
        sent = {"content-type": "application/json", **(headers or {})} if content is not None else dict(headers or {})
        probe = await self._admit(operation, is_read=is_read)
        outcome: Outcome = "cancelled"
        started, shown = time.perf_counter(), "cancelled"
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._http.request(method, path, params=query, content=content, headers=sent)
            outcome, shown = "failed" if response.status_code >= 500 else "answered", str(response.status_code)
        except (httpx.HTTPError, TimeoutError) as exc:
            outcome, shown = "failed", "unavailable"
            raise UsageBoxUnavailable(f"{method} {path}: {type(exc).__name__}: {exc}") from exc
        finally:
            self.breaker.settle(outcome, probe=probe)
            REQUESTS.labels(operation, shown).observe(time.perf_counter() - started)
            self._show()
        self._judge(f"{method} {path}", response)
        return response

    async def _admit(self, operation: str, *, is_read: bool) -> bool:
        try:
            if is_read:
                await self.pace.turn()
            self.pace.check()
            return self.breaker.admit()
        except UsageBoxHeld:
            REQUESTS.labels(operation, "held").observe(0)
            raise

    def _judge(self, request: str, response: httpx.Response) -> None:
        """Raise for what is no success. Bodies of errors are text of any kind, and only shown."""
        status = response.status_code
        if status < 300:
            return
        message = f"{request}: {status} {response.text[:200]}"
        if status == 429 or status >= 500:
            wait = retry_after_seconds(response.headers.get("retry-after"), datetime.now(UTC))
            if status == 429 or (status == 503 and wait is not None):
                self.pace.pushed_back(wait)
                self._show()
            raise UsageBoxUnavailable(message, wait)
        raise UsageBoxRefused(message, status)

    def _show(self) -> None:
        BREAKER.state(self.breaker.state)
        READ_RATE.set(self.pace.rate)


def _passes(error: Exception) -> bool:
    """Whether a read is worth repeating at once: not where UsageBox said when, and not where nothing was sent."""
    return (
        isinstance(error, UsageBoxUnavailable)
        and not isinstance(error, UsageBoxHeld)
        and error.retry_after_seconds is None
    )
