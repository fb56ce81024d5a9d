"""Overrides: made by a person with a reason and an end, kept in the store, mirrored to Redis where the script reads them."""

from __future__ import annotations

import asyncio
from typing import Final

from spendgate.control import Control
from spendgate.reasons import rfc3339
from spendgate.state import Override, OverrideSet
from spendgate_daemon.store import Store
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.store.overrides import StoredOverride

MIN_REASON: Final = 10
MAX_DAYS: Final = 30


def begin_event(override: StoredOverride) -> GuardrailEvent:
    """The guardrail event of an override's beginning; the overrides's id makes it unique."""
    what = f"let pass at most {override.max_units:,} units" if override.kind == "let_pass" else "stop whatever is asked"
    until = rfc3339(override.expires_at_us)
    return GuardrailEvent(
        id=f"{override.id}.on",
        customer_id=override.customer_id,
        kind="override_on",
        at_us=override.created_at_us,
        override_id=override.id,
        message=f"{override.created_by}: {what} until {until} ({override.reason})",
    )


def end_event(override: StoredOverride, at_us: int, how: str) -> GuardrailEvent:
    """The guardrail event of its end: `how` is `expired`, or `revoked by ...`."""
    return GuardrailEvent(
        id=f"{override.id}.off",
        customer_id=override.customer_id,
        kind="override_off",
        at_us=at_us,
        override_id=override.id,
        message=f"The override of {rfc3339(override.created_at_us)} ended: {how}",
    )


def overrides_in_force(store: Store, customer_id: str, now_us: int) -> OverrideSet:
    """What Redis is told of a customer's overrides. Of two readers the one who saw the later state of the store has the
    greater version, because it grows with every change there."""
    stored, version = store.overrides.in_force(customer_id, now_us)
    values = tuple(
        Override(
            each.id, "let_pass" if each.kind == "let_pass" else "stop", each.expires_at_us, each.max_units, each.bypass
        )
        for each in stored
    )
    return OverrideSet(version, values)


async def mirror_overrides(control: Control, store: Store, customer_id: str, now_us: int) -> bool:
    """Write a customer's overrides in force to Redis. Idempotent."""
    in_force = await asyncio.to_thread(overrides_in_force, store, customer_id, now_us)
    return await control.put_overrides(customer_id, in_force.overrides, in_force.version)
