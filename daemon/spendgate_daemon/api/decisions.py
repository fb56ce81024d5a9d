"""The decision path: plain ASGI, because it is in every agent's loop.

A decision is always 200; with `Prefer: status=gateway` (RFC 7240) its outcome is in the status, for gateways that look at
nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec
import structlog

from spendgate.decide import Mode
from spendgate.decision import Decision
from spendgate.errors import SpendgateError
from spendgate.event import UsageEvent
from spendgate_daemon.api.auth import Authenticator, Principal
from spendgate_daemon.api.metrics import DECISION_SECONDS, DECISIONS, PROBLEMS
from spendgate_daemon.api.problems import CONTENT_TYPE, Problem, invalid, problem_of, too_large
from spendgate_daemon.api.reading import EVENT_FIELDS, MAX_BODY_BYTES, read_event, read_object
from spendgate_daemon.api.services import Services

MAX_BATCH: Final = 100
FETCH_WAIT_SECONDS: Final = 0.3
FETCH_POLL_SECONDS: Final = 0.01
READ_TIMEOUT_SECONDS: Final = 10

ScopeDict = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_FORBIDDEN_REASONS: Final = frozenset(
    {"customer_suspended", "customer_cancelled", "unknown_customer", "model_not_allowed", "override_stop"}
)

_log = structlog.get_logger("spendgate.api.decisions")


class DecisionPath:
    """`POST /v1/decisions`, `/v1/decisions/batch` and `/v1/usage`."""

    def __init__(self, services: Services, authenticator: Authenticator) -> None:
        self._services = services
        self._authenticator = authenticator
        self._routes = {
            "/v1/decisions": self._decide,
            "/v1/decisions/batch": self._batch,
            "/v1/usage": self._record,
        }

    def serves(self, scope: ScopeDict) -> bool:
        return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._routes

    async def __call__(self, scope: ScopeDict, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            principal = await self._authenticator.authenticate(headers.get("authorization"))
            body = await _read_body(headers, receive)
            status, answer, extra = await self._routes[scope["path"]](principal, headers, body)
            await _send(send, status, msgspec.json.encode(answer), "application/json", extra)
        except Problem as problem:
            await _send_problem(send, problem)
        except SpendgateError as exc:
            translated = problem_of(exc)
            if translated.status >= 500:
                _log.error("not decided", error=str(exc))
            await _send_problem(send, translated)
        finally:
            DECISION_SECONDS.observe(time.perf_counter() - started)

    async def _decide(
        self, principal: Principal, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        principal.require("decide")
        value = read_object(body, EVENT_FIELDS, "one usage event")
        decision = await self._one(value, principal, headers)
        if _prefers_gateway(headers.get("prefer", "")):
            status, extra = _gateway_status(decision)
            return status, decision.answer(), extra | {"preference-applied": "status=gateway"}
        return 200, decision.answer(), {}

    async def _record(
        self, principal: Principal, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        principal.require("usage")
        value = read_object(body, EVENT_FIELDS, "one usage event")
        if value.get("dry_run"):
            raise invalid("dry_run", "absent: recorded usage already happened")
        decision = await self._one(value, principal, headers, mode="record")
        return 200, decision.answer(), {}

    async def _batch(
        self, principal: Principal, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        principal.require("decide")
        value = read_object(body, frozenset({"events"}), "events, a list")
        events = value.get("events")
        if not isinstance(events, list) or not 1 <= len(events) <= MAX_BATCH:
            raise invalid("events", f"a list of 1 to {MAX_BATCH} events")
        own = {name: text for name, text in headers.items() if name != "idempotency-key"}
        results = await asyncio.gather(*(self._entry(event, principal, own) for event in events))
        return 200, {"results": results}, {}

    async def _entry(self, value: Any, principal: Principal, headers: dict[str, str]) -> dict[str, Any]:
        """One event of a batch: independent of the others, its problem beside their decisions."""
        try:
            if not isinstance(value, dict):
                raise invalid("events", "a list of objects")
            decision = await self._one(value, principal, headers)
            return {"status": 200, "decision": decision.answer()}
        except Problem as problem:
            return {"status": problem.status, "problem": problem.as_json()}
        except SpendgateError as exc:
            found = problem_of(exc)
            return {"status": found.status, "problem": found.as_json()}

    async def _one(
        self, value: dict[str, Any], principal: Principal, headers: dict[str, str], *, mode: Mode = "decide"
    ) -> Decision:
        event, dry_run = read_event(
            value,
            bound_to=principal.customer_id,
            idempotency_key=headers.get("idempotency-key"),
            traceparent=headers.get("traceparent"),
        )
        decision = await self._services.gate.submit(event, mode=mode, dry_run=dry_run)
        if decision.reason == "unknown_customer" and decision.record.state is None and not dry_run:
            decision = await self._after_one_fetch(event, decision)
        DECISIONS.labels(decision.outcome, decision.reason).inc()
        return decision

    async def _after_one_fetch(self, event: UsageEvent, denied: Decision) -> Decision:
        """The script has asked the mirror for this customer. Wait for what it finds, or marks as unknown, a moment; the
        marker lasts, so that only the first of a customer's events waits."""
        deadline = time.monotonic() + FETCH_WAIT_SECONDS
        while time.monotonic() < deadline:
            snapshot = await self._services.gate.snapshot(event.customer_id)
            if snapshot.known:
                return await self._services.gate.submit(event)
            if snapshot.state is not None:
                return denied
            await asyncio.sleep(FETCH_POLL_SECONDS)
        return denied


def _prefers_gateway(prefer: str) -> bool:
    return any(part.strip().replace('"', "") == "status=gateway" for part in prefer.lower().split(","))


def _gateway_status(decision: Decision) -> tuple[int, dict[str, str]]:
    if decision.outcome == "throttle":
        return 429, {"retry-after": str(max(1, decision.retry_after_seconds or 1))}
    if decision.outcome == "allow":
        return 200, {}
    return (403 if decision.reason in _FORBIDDEN_REASONS else 402), {}


async def _read_body(headers: dict[str, str], receive: Receive) -> bytes:
    """At most MAX_BODY_BYTES, whatever the content-length says."""
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise too_large(MAX_BODY_BYTES)
    chunks: list[bytes] = []
    size_bytes, more = 0, True
    async with asyncio.timeout(READ_TIMEOUT_SECONDS):
        while more:
            message = await receive()
            chunk = message.get("body", b"")
            size_bytes += len(chunk)
            if size_bytes > MAX_BODY_BYTES:
                raise too_large(MAX_BODY_BYTES)
            chunks.append(chunk)
            more = message.get("more_body", False)
    return b"".join(chunks)


async def _send_problem(send: Send, problem: Problem) -> None:
    PROBLEMS.labels(str(problem.status), problem.slug).inc()
    await _send(send, problem.status, problem.encode(), CONTENT_TYPE, problem.headers)


async def _send(send: Send, status: int, body: bytes, content_type: str, extra: dict[str, str]) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.encode(), value.encode()) for name, value in extra.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
