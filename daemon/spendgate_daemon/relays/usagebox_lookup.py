"""Old attempts are looked up before they are made again.

UsageBox knows a repeated event by its id for 7 days and a million events, all senders' together. Sent again after that, it
would be billed twice. So what was tried long ago, by time or by number, is looked for among the customer's events first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from spendgate_daemon.relays.usagebox_corrections import correction_id_of
from spendgate_daemon.store.deliveries import Delivery
from spendgate_daemon.store.usage import UsageEventRow
from spendgate_daemon.usagebox import UsageBox, UsageEvent

OLD_US: Final = 5 * 86_400_000_000
OLD_EVENTS: Final = 300_000
"""Of our own, stored since. What others sent isn't known; UsageBox remembers three times as many in all."""

REQUESTS_MAX: Final = 20
"""Of one run: a customer's hour is one. What is left over has its turn in the next."""

_HOUR_MS: Final = 3_600_000


def is_old(delivery: Delivery, newest_position: int, now_us: int) -> bool:
    """Whether UsageBox may have forgotten an attempt of this delivery."""
    first_us = delivery.first_attempt_us
    if first_us is None and delivery.attempts:
        first_us = delivery.created_at_us  # an attempt from before they were noted
    if first_us is None:
        return False
    return now_us - first_us >= OLD_US or newest_position - delivery.position >= OLD_EVENTS


class Found(msgspec.Struct, frozen=True):
    """Rows by what UsageBox has: the event, its correction, another event with its id, nothing; `later`: not asked yet."""

    delivered: list[UsageEventRow] = []
    corrected: list[UsageEventRow] = []
    conflicting: list[UsageEventRow] = []
    missing: list[UsageEventRow] = []
    later: list[UsageEventRow] = []


async def look_up(
    usagebox: UsageBox, rows: Sequence[UsageEventRow], event_of: Callable[[UsageEventRow], UsageEvent]
) -> Found:
    """Ask for at most REQUESTS_MAX hours of customers. Raises what UsageBox's reads raise."""
    hours: dict[tuple[str, int], list[UsageEventRow]] = defaultdict(list)
    for row in rows:
        hours[row.customer_id, row.at_us // 1000 // _HOUR_MS].append(row)
    found = Found()
    for number, ((customer_id, _), mine) in enumerate(hours.items()):
        if number >= REQUESTS_MAX:
            found.later.extend(mine)
            continue
        times_ms = [row.at_us // 1000 for row in mine]
        span = (_instant(min(times_ms)), _instant(max(times_ms) + 1))
        there = {event.event_id: event for event in await usagebox.events(customer_id, *span)}
        for row in mine:
            _sort(row, event_of(row), there, found)
    return found


def _sort(row: UsageEventRow, event: UsageEvent, there: Mapping[str, UsageEvent], found: Found) -> None:
    same = there.get(event.event_id)
    if correction_id_of(event.event_id) in there:
        found.corrected.append(row)
    elif same is None:
        found.missing.append(row)
    elif (same.meter_id, same.quantity, same.timestamp_ms) == (event.meter_id, event.quantity, event.timestamp_ms):
        found.delivered.append(row)
    else:
        found.conflicting.append(row)


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
