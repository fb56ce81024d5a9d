"""Usage that comes too late for its period becomes a correction of it.

A closed period takes no usage any more, but corrections, as adjustments. The correction has an id of its own, which follows
from the event's, so that it is the same however often it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from spendgate_daemon.store.usage import UsageEventRow
from spendgate_daemon.usagebox import CorrectionRef, UsageBox, UsageBoxRefused, UsageEvent

CORRECTION_SUFFIX: Final = ":correction"


def correction_id_of(event_id: str) -> str:
    return event_id + CORRECTION_SUFFIX


def correction_of(event: UsageEvent) -> UsageEvent:
    """What adds the event's quantity to its period."""
    reason = f"recorded before, and sent after, the end of {month_of_ms(event.timestamp_ms)}"
    return msgspec.structs.replace(
        event,
        event_id=correction_id_of(event.event_id),
        kind="Correction",
        correction_ref=CorrectionRef(event.event_id, reason),
    )


def month_of_ms(at_ms: int) -> str:
    """UsageBox's periods are calendar months, UTC."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m")


async def in_closed_periods(usagebox: UsageBox, rows: Sequence[UsageEventRow]) -> list[UsageEventRow]:
    """Those whose period UsageBox says is closed. A UsageBox that can't say has none. Raises UsageBoxUnavailable."""
    closed: dict[tuple[str, str], bool] = {}
    for row in rows:
        period = (row.customer_id, month_of_ms(row.at_us // 1000))
        if period not in closed:
            try:
                closed[period] = (await usagebox.period(*period)).state == "Closed"
            except UsageBoxRefused:
                closed[period] = False
    return [row for row in rows if closed[row.customer_id, month_of_ms(row.at_us // 1000)]]
