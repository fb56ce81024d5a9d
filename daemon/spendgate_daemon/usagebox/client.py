"""The client: one connection pool, a deadline on everything, errors that say whether to try again.

Nothing is retried here except reads: ingest and flags are repeated by the relays, which remember what they sent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import httpx
import msgspec
import stamina

from spendgate_daemon.usagebox.dialects import decode_totals, encode_event
from spendgate_daemon.usagebox.errors import UsageBoxRefused, UsageBoxUnavailable
from spendgate_daemon.usagebox.metrics import REQUESTS
from spendgate_daemon.usagebox.policies import FLAGS_PATH, POLICIES_PATH, decode_policies, encode_flag
from spendgate_daemon.usagebox.values import (
    BatchResult,
    CustomerPolicy,
    Dialect,
    Subscription,
    TotalLine,
    UsageEvent,
)

TIMEOUT_SECONDS: Final = 10.0
READ_ATTEMPTS: Final = 3
MAX_EVENTS: Final = 1000


class UsageBox:
    """`key` serves the metering API as a bearer and the catalog as `x-api-key`; None where the engine runs alone and has
    no authentication."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        dialect: Dialect = "hosted",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        headers = {"authorization": f"Bearer {key}", "x-api-key": key} if key else {}
        self.dialect: Dialect = dialect
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout_seconds)

    @property
    def host(self) -> str:
        """For display: the address without path or credentials."""
        return self._http.base_url.netloc.decode()

    async def send_usage(self, events: Sequence[UsageEvent]) -> BatchResult:
        """`POST /v1/usage/batch`. Sending the same events again is safe within UsageBox's window of duplicates."""
        if len(events) > MAX_EVENTS:
            raise ValueError(f"a batch has at most {MAX_EVENTS} events")
        body = {"events": [encode_event(event, self.dialect) for event in events]}
        response = await self._request("send_usage", "POST", "/v1/usage/batch", body=body)
        try:
            return msgspec.json.decode(response.content, type=BatchResult)
        except msgspec.MsgspecError as exc:
            raise UsageBoxUnavailable(f"UsageBox answered a batch with what makes no sense: {exc}") from exc

    async def totals(
        self,
        account_id: str,
        start: datetime,
        end: datetime,
        group_by: Sequence[str],
        *,
        source: Literal["rollup", "raw"] = "rollup",
        meter_id: str | None = None,
    ) -> list[TotalLine]:
        """Sums over [start, end). `rollup` is cheap but wrong where an edge is not a whole UTC hour; use `raw` there."""
        query = {
            "from": start.isoformat().replace("+00:00", "Z"),
            "to": end.isoformat().replace("+00:00", "Z"),
            "group_by": ",".join(group_by),
            "source": source,
        }
        if meter_id is not None:
            query["meter_id"] = meter_id
        path = f"/v1/accounts/{quote(account_id, safe='')}/usage"
        response = await self._read("totals", path, query)
        try:
            body = msgspec.json.decode(response.content)
        except msgspec.MsgspecError as exc:
            raise UsageBoxUnavailable("UsageBox answered totals that are no JSON") from exc
        return decode_totals(body, tuple(group_by))

    async def policies(self, updated_since: str | None) -> tuple[list[CustomerPolicy], str] | None:
        """Customers whose policy state changed after the cursor (None: all), and the next cursor. None when this
        UsageBox has no such endpoint."""
        query = {"updated_since": updated_since} if updated_since is not None else {}
        try:
            response = await self._read("policies", POLICIES_PATH, query)
        except UsageBoxRefused as exc:
            if exc.status == 404:
                return None
            raise
        return decode_policies(response.content)

    async def subscriptions(self) -> list[Subscription] | None:
        """Catalog subscriptions; None when this UsageBox has no catalog (the engine alone)."""
        try:
            response = await self._read("subscriptions", "/api/v1/subscriptions", {})
        except UsageBoxRefused as exc:
            if exc.status == 404:
                return None
            raise
        try:
            body = msgspec.json.decode(response.content)
            items = body["subscriptions"] if isinstance(body, dict) else body
            return msgspec.convert(items, list[Subscription])
        except (msgspec.MsgspecError, KeyError) as exc:
            raise UsageBoxUnavailable("UsageBox answered subscriptions that make no sense") from exc

    async def raise_flag(
        self,
        customer_id: str,
        policy: str,
        *,
        reason: str,
        decision_id: str,
        occurred_at_us: int,
        idempotency_key: str,
    ) -> None:
        """Idempotent per key."""
        body = encode_flag(customer_id, policy, reason, decision_id, occurred_at_us)
        await self._request("raise_flag", "POST", FLAGS_PATH, body=body, headers={"idempotency-key": idempotency_key})

    async def clear_flag(self, customer_id: str, policy: str, *, idempotency_key: str) -> None:
        """Idempotent; clearing what is not raised is no error."""
        body = {"customer_id": customer_id, "policy": policy}
        headers = {"idempotency-key": idempotency_key}
        await self._request("clear_flag", "DELETE", FLAGS_PATH, body=body, headers=headers)

    async def health(self) -> bool:
        """Whether somebody answers at `/health`."""
        try:
            await self._request("health", "GET", "/health")
        except (UsageBoxUnavailable, UsageBoxRefused):
            return False
        return True

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _read(self, operation: str, path: str, query: Mapping[str, str]) -> httpx.Response:
        """A read, repeated a little when nobody answered."""
        async for attempt in stamina.retry_context(
            on=UsageBoxUnavailable, attempts=READ_ATTEMPTS, timeout=TIMEOUT_SECONDS, wait_initial=0.05, wait_max=1.0
        ):
            with attempt:
                return await self._request(operation, "GET", path, query=query)
        raise AssertionError("retry_context ends with a return or an error")

    async def _request(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        content = msgspec.json.encode(body) if body is not None else None
        sent = {"content-type": "application/json", **(headers or {})} if content is not None else dict(headers or {})
        started = time.perf_counter()
        outcome = "unavailable"
        try:
            response = await self._http.request(method, path, params=query, content=content, headers=sent)
            outcome = str(response.status_code)
        except httpx.HTTPError as exc:
            raise UsageBoxUnavailable(f"{method} {path}: {type(exc).__name__}: {exc}") from exc
        finally:
            REQUESTS.labels(operation, outcome).observe(time.perf_counter() - started)
        if response.status_code == 429 or response.status_code >= 500:
            message = f"{method} {path}: {response.status_code} {response.text[:200]}"
            raise UsageBoxUnavailable(message, _retry_after_seconds(response))
        if response.status_code >= 400:
            raise UsageBoxRefused(
                f"{method} {path}: {response.status_code} {response.text[:200]}", response.status_code
            )
        return response


def _retry_after_seconds(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
