"""Stops and resumes → UsageBox policy events.

Changes of one customer are coalesced: what is sent is where the customer stands after the last of them, and an older
change that is being retried is never sent after a newer one. The Idempotency-Key is the guardrail event's id, so a
repeated send raises nothing twice. A UsageBox without policies, as usageDb alone, is nobody to tell: what it would have been
told has reached its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from spendgate_daemon.relays.backoff import Backoff
from spendgate_daemon.relays.metrics import DELIVERED
from spendgate_daemon.relays.store_relay import POLICY_SINK
from spendgate_daemon.store import Store
from spendgate_daemon.store.deliveries import Delivery
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.usagebox import UsageBox, UsageBoxRefused, UsageBoxUnavailable

POLICY: Final = "hard-stop"
BATCH: Final = 500
TRIES: Final = 5
NO_POLICIES: Final = "this UsageBox has no policies"
KEY_STATUSES: Final = frozenset({401, 403})
"""Refusals of our key: no customer's change is at fault, so none is given up."""

_log = structlog.get_logger("spendgate.relay.usagebox_policies")


class UsageBoxPolicyRelay:
    def __init__(self, store: Store, usagebox: UsageBox, now_us: Callable[[], int]) -> None:
        self._store = store
        self._usagebox = usagebox
        self._now_us = now_us
        self._backoff = Backoff()

    async def run_once(self) -> int:
        """Tell UsageBox of the oldest BATCH changes that wait, customer by customer; how many reached their end. Ends
        at the first sign that UsageBox is not there."""
        if self._backoff.holds(self._now_us()):
            return 0
        waiting = await asyncio.to_thread(self._store.deliveries.waiting, POLICY_SINK, BATCH)
        if not waiting:
            return 0
        events = await asyncio.to_thread(self._store.guardrail_events.by_ids, [each.item_id for each in waiting])
        by_customer: dict[str, list[Delivery]] = {}
        for delivery in waiting:
            by_customer.setdefault(events[delivery.item_id].customer_id, []).append(delivery)
        now_us, ended = self._now_us(), 0
        for deliveries in by_customer.values():
            if deliveries[-1].next_attempt_us <= now_us:
                # One that was dead and is tried again may be older than what UsageBox was told since.
                last = events[deliveries[-1].item_id]
                newest = await asyncio.to_thread(self._store.guardrail_events.last_stop_or_resume, last.customer_id)
                ended += await self._tell(deliveries, newest or last)
            if self._backoff.holds(self._now_us()):
                break
        return ended

    async def _tell(self, deliveries: list[Delivery], event: GuardrailEvent) -> int:
        """Send the last change of one customer, and settle all that it stands for."""
        positions = [delivery.position for delivery in deliveries]
        try:
            without = None if await self._send(event) else NO_POLICIES
        except (UsageBoxRefused, UsageBoxUnavailable) as exc:
            error = f"{type(exc).__name__}: {exc}"[:500]
            tries = deliveries[-1].attempts + 1
            about_us = isinstance(exc, UsageBoxUnavailable) or exc.status in KEY_STATUSES
            if not about_us and tries >= TRIES:
                await self._mark(positions, "dead", error=error)
                DELIVERED.labels(POLICY_SINK, "dead").inc(len(positions))
                _log.error("UsageBox refused a policy event", customer_id=event.customer_id, error=error)
                return len(positions)
            now_us = self._now_us()
            due_us = self._backoff.fail(now_us, exc) if about_us else now_us + Backoff.wait_us(tries)
            await self._mark(positions, "attempted", next_attempt_us=due_us, error=error)
            DELIVERED.labels(POLICY_SINK, "retried").inc(len(positions))
            _log.warning("UsageBox did not take a policy event", customer_id=event.customer_id, error=error)
            return 0
        self._backoff.succeed()
        await self._mark(positions, "delivered", error=without)
        DELIVERED.labels(POLICY_SINK, "delivered" if without is None else "not_wanted").inc(len(positions))
        return len(positions)

    async def _send(self, event: GuardrailEvent) -> bool:
        """False: this UsageBox has no policies."""
        try:
            if event.to_state == "stopped":
                await self._usagebox.raise_flag(
                    event.customer_id,
                    POLICY,
                    reason=event.message,
                    decision_id=event.decision_id or "",
                    occurred_at_us=event.at_us,
                    idempotency_key=event.id,
                )
            else:
                await self._usagebox.clear_flag(event.customer_id, POLICY, idempotency_key=event.id)
        except UsageBoxRefused as exc:
            if exc.status == 404 and await self._usagebox.policies(None) is None:
                return False
            raise
        return True

    async def _mark(
        self, positions: list[int], state: str, *, next_attempt_us: int = 0, error: str | None = None
    ) -> None:
        await asyncio.to_thread(
            lambda: self._store.deliveries.mark(
                POLICY_SINK,
                positions,
                state,
                next_attempt_us=next_attempt_us,
                error=error,
                attempted_at_us=self._now_us(),
            )
        )
