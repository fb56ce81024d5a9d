"""An event is debited once, however late its repetition comes.

The gate remembers events for a quarter of an hour or more. One that is sent again after that is debited again; the store
finds it by the event's id, names it, and it is taken back by a correction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from spendgate.errors import InvalidEvent, SpendgateError
from spendgate_daemon.relays.metrics import DUPLICATES
from spendgate_daemon.store import Store
from spendgate_daemon.store.guardrail_events import GuardrailEvent

KIND: Final = "duplicate"
CURSOR: Final = "late-duplicates"
BATCH: Final = 100
LOOKED_AT: Final = 10_000
"""At most so many from the first on that waits."""

ACTOR: Final = "spendgate"

TakeBack = Callable[[str, str, str, str], Awaitable[bool]]
"""Corrects a decision's meter to nothing: correction id, decision id, meter, reason. Once per id; False: not yet, the
customer's last correction isn't stored. Raises InvalidEvent where nothing counts any more."""

_log = structlog.get_logger("spendgate.relay.duplicates")


def duplicate_event(decision: Mapping[str, Any], first: str) -> GuardrailEvent:
    """Names the second debit of an event that `first` had debited."""
    return GuardrailEvent(
        id=f"{decision['decision_id']}.duplicate",
        customer_id=decision["customer_id"],
        kind=KIND,
        at_us=decision["at_us"],
        decision_id=decision["decision_id"],
        message=f"Event {decision['event_id']} was debited before, by {first}; this debit is taken back",
    )


class LateDuplicates:
    """Takes back what was debited again, of each customer in order. One that can't be yet, because the customer's last
    correction isn't stored or Redis refuses it, holds up no other customer: only the cursor stays before it."""

    def __init__(self, store: Store, take_back: TakeBack) -> None:
        self._store = store
        self._take_back = take_back
        self._taken_back: set[int] = set()
        """Positions after the cursor, which stays before the first that waits."""
        self._ahead = 0

    async def run_once(self) -> int:
        """How many were taken back; at most BATCH. Raises what Redis raised for one when there was nothing else to do."""
        cursor = int(await asyncio.to_thread(self._store.cursors.get, CURSOR) or 0)
        limit = min(self._ahead + BATCH, LOOKED_AT)
        found = await asyncio.to_thread(self._store.guardrail_events.of_kind, KIND, cursor, limit)
        waiting: dict[str, SpendgateError | None] = {}
        done, passed = 0, cursor
        for event in found:
            if event.position not in self._taken_back and event.customer_id not in waiting:
                try:
                    if await self._correct(event):
                        self._taken_back.add(event.position)
                        done += 1
                    else:
                        waiting[event.customer_id] = None
                except SpendgateError as exc:
                    waiting[event.customer_id] = exc
            if not waiting:
                passed = event.position
        self._taken_back = {position for position in self._taken_back if position > passed}
        self._ahead = sum(event.position > passed for event in found)
        if passed > cursor:
            await asyncio.to_thread(self._store.cursors.put, {CURSOR: str(passed)})
        failures = [why for why in waiting.values() if why is not None]
        if failures and not done:
            raise failures[0]
        return done

    async def _correct(self, event: GuardrailEvent) -> bool:
        stored = await asyncio.to_thread(self._store.decisions.get, event.decision_id or "")
        for meter in stored.quantities if stored is not None else ():
            try:
                if not await self._take_back(f"{event.id}.{meter}", event.decision_id or "", meter, event.message):
                    return False
            except InvalidEvent:
                continue  # somebody has corrected it to nothing by hand
        DUPLICATES.inc()
        _log.warning("an event was debited twice", customer_id=event.customer_id, message=event.message)
        return True
