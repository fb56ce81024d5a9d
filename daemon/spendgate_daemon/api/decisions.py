"""Events that are decided or recorded.

A decision is always 200; with `Prefer: status=gateway` (RFC 7240) its outcome is in the status, for gateways that look at
nothing else.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from spendgate.decide import Mode
from spendgate.decision import Decision
from spendgate.errors import InvalidEvent, SpendgateError
from spendgate.event import UsageEvent
from spendgate.gateway import retry_after_seconds_of, status_of
from spendgate_daemon.api.auth import Principal
from spendgate_daemon.api.fast_path import Answer, Call, Handler
from spendgate_daemon.api.metrics import DECISIONS, DEGRADED
from spendgate_daemon.api.problems import Problem, invalid, problem_of
from spendgate_daemon.api.reading import EVENT_FIELDS, read_event, read_object
from spendgate_daemon.api.services import Services

MAX_BATCH: Final = 100
FETCH_WAIT_SECONDS: Final = 0.3
FETCH_POLL_SECONDS: Final = 0.01
FETCH_WAITERS: Final = 200
"""Beyond, unknown customers are denied without waiting: a flood of made-up ids must not hold the rest up."""

PATHS: Final = ("/v1/decisions", "/v1/decisions/batch", "/v1/usage")


class Decisions:
    """`POST /v1/decisions`, `/v1/decisions/batch` and `/v1/usage`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiters = 0

    def routes(self) -> dict[str, Handler]:
        """For the fast path."""
        return dict(zip(PATHS, (self._decide, self._batch, self._record), strict=True))

    async def _decide(self, call: Call) -> Answer:
        call.principal.require("decide")
        value = read_object(call.body, EVENT_FIELDS, "one usage event")
        decision = await self.submit(value, call.principal, call.headers)
        return as_preferred(decision, decision.answer(), call.headers)

    async def _record(self, call: Call) -> Answer:
        call.principal.require("usage")
        value = read_object(call.body, EVENT_FIELDS, "one usage event")
        if value.get("dry_run"):
            raise invalid("dry_run", "absent: recorded usage already happened")
        decision = await self.submit(value, call.principal, call.headers, mode="record")
        return 200, decision.answer(), {}

    async def _batch(self, call: Call) -> Answer:
        call.principal.require("decide")
        value = read_object(call.body, frozenset({"events"}), "events, a list")
        events = value.get("events")
        if not isinstance(events, list) or not 1 <= len(events) <= MAX_BATCH:
            raise invalid("events", f"a list of 1 to {MAX_BATCH} events")
        own = {name: text for name, text in call.headers.items() if name != "idempotency-key"}
        results = await asyncio.gather(*(self._entry(event, call.principal, own) for event in events))
        return 200, {"results": results}, {}

    async def _entry(self, value: Any, principal: Principal, headers: dict[str, str]) -> dict[str, Any]:
        """One event of a batch: independent of the others, its problem beside their decisions."""
        try:
            if not isinstance(value, dict):
                raise invalid("events", "a list of objects")
            decision = await self.submit(value, principal, headers)
            return {"status": 200, "decision": decision.answer()}
        except Problem as problem:
            return {"status": problem.status, "problem": problem.as_json()}
        except SpendgateError as exc:
            found = problem_of(exc)
            return {"status": found.status, "problem": found.as_json()}

    async def submit(
        self,
        value: dict[str, Any],
        principal: Principal,
        headers: dict[str, str],
        *,
        mode: Mode = "decide",
        lifetime_seconds: int | None = None,
    ) -> Decision:
        """Decide one event as the caller wrote it. Raises problems and the gate's errors, naming the field."""
        event, dry_run = read_event(
            value,
            bound_to=principal.customer_id,
            idempotency_key=headers.get("idempotency-key"),
            traceparent=headers.get("traceparent"),
        )
        try:
            decision = await self._services.decider.submit(
                event, mode=mode, dry_run=dry_run, lifetime_seconds=lifetime_seconds
            )
            if decision.reason == "unknown_customer" and decision.record.state is None and not dry_run:
                decision = await self._after_one_fetch(event, decision, mode, lifetime_seconds)
        except InvalidEvent as exc:
            raise as_written(exc, value) from exc
        DECISIONS.labels(decision.outcome, decision.reason).inc()
        if decision.degraded:
            DEGRADED.labels(decision.outcome).inc()
        return decision

    async def _after_one_fetch(
        self, event: UsageEvent, denied: Decision, mode: Mode, lifetime_seconds: int | None
    ) -> Decision:
        """The script has asked the mirror for this customer. Wait for what it finds, or marks as unknown, a moment; the
        marker lasts, so that only the first of a customer's events waits."""
        if self._waiters >= FETCH_WAITERS:
            return denied
        self._waiters += 1
        try:
            deadline = time.monotonic() + FETCH_WAIT_SECONDS
            while time.monotonic() < deadline:
                snapshot = await self._services.gate.snapshot(event.customer_id)
                if snapshot.known:
                    return await self._services.decider.submit(event, mode=mode, lifetime_seconds=lifetime_seconds)
                if snapshot.state is not None:
                    break
                await asyncio.sleep(FETCH_POLL_SECONDS)
        finally:
            self._waiters -= 1
        return denied


def as_preferred(decision: Decision, body: dict[str, Any], headers: dict[str, str]) -> Answer:
    """The answer of a decision, with its outcome as the status where the caller prefers that."""
    if not _prefers_gateway(headers.get("prefer", "")):
        return 200, body, {}
    status, extra = _gateway_status(decision)
    return status, body, extra | {"preference-applied": "status=gateway"}


def as_written(error: InvalidEvent, value: dict[str, Any]) -> Problem:
    """The gate counts an event of one meter as `meter` and `quantity`; the caller may have written `quantities`."""
    problem = problem_of(error)
    if "quantities" in value and error.field in ("meter", "quantity"):
        problem.field = f"quantities.{next(iter(value['quantities']))}"
        problem.detail = f"{problem.field} must be {problem.expected}"
    return problem


def _prefers_gateway(prefer: str) -> bool:
    return any(part.strip().replace('"', "") == "status=gateway" for part in prefer.lower().split(","))


def _gateway_status(decision: Decision) -> tuple[int, dict[str, str]]:
    wait_seconds = retry_after_seconds_of(decision)
    return status_of(decision), {"retry-after": str(wait_seconds)} if wait_seconds is not None else {}
