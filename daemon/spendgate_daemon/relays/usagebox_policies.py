"""Stops and resumes → UsageBox policy events.

Changes of one customer are coalesced: what is sent is where the customer stands after the last of them. The
Idempotency-Key is the guardrail event's id, so a repeated send raises nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from spendgate_daemon.relays.metrics import DELIVERED
from spendgate_daemon.relays.store_relay import POLICY_SINK
from spendgate_daemon.store import Store
from spendgate_daemon.store.deliveries import Delivery
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.usagebox import UsageBox, UsageBoxError, UsageBoxRefused

POLICY: Final = "hard-stop"
BATCH: Final = 200
RETRY_SECONDS: Final = 5

_log = structlog.get_logger("spendgate.relay.usagebox_policies")


class UsageBoxPolicyRelay:
    def __init__(self, store: Store, usagebox: UsageBox, now_us: Callable[[], int]) -> None:
        self._store = store
        self._usagebox = usagebox
        self._now_us = now_us

    async def run_once(self) -> int:
        """Tell UsageBox of the oldest BATCH changes that are due; how many reached their end."""
        due = await asyncio.to_thread(self._store.deliveries.due, POLICY_SINK, self._now_us(), BATCH)
        if not due:
            return 0
        events = await asyncio.to_thread(self._store.guardrail_events.by_ids, [d.item_id for d in due])
        by_customer: dict[str, list[tuple[Delivery, GuardrailEvent]]] = {}
        for delivery in due:
            event = events[delivery.item_id]
            by_customer.setdefault(event.customer_id, []).append((delivery, event))
        return sum([await self._tell(pairs) for pairs in by_customer.values()])

    async def _tell(self, pairs: list[tuple[Delivery, GuardrailEvent]]) -> int:
        event = pairs[-1][1]
        positions = [delivery.position for delivery, _ in pairs]
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
            await self._mark(positions, "dead", error=str(exc)[:500])
            DELIVERED.labels(POLICY_SINK, "dead").inc(len(positions))
            _log.error("UsageBox refused a policy event", customer_id=event.customer_id, error=str(exc))
            return len(positions)
        except UsageBoxError as exc:
            error = f"{type(exc).__name__}: {exc}"[:500]
            later_us = self._now_us() + RETRY_SECONDS * 1_000_000
            await self._mark(positions, "attempted", next_attempt_us=later_us, error=error)
            _log.warning("UsageBox did not take a policy event", customer_id=event.customer_id, error=error)
            return 0
        await self._mark(positions, "delivered")
        DELIVERED.labels(POLICY_SINK, "delivered").inc(len(positions))
        return len(positions)

    async def _mark(
        self, positions: list[int], state: str, *, next_attempt_us: int = 0, error: str | None = None
    ) -> None:
        await asyncio.to_thread(
            lambda: self._store.deliveries.mark(
                POLICY_SINK, positions, state, next_attempt_us=next_attempt_us, error=error, attempted=True
            )
        )
