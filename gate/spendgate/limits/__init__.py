"""The limit kinds. Each kind is a module here with its Lua twin beside it; this file is the wiring.

A kind is a frozen struct with `rule` (what the script reads of it), `check` (one event against one counter), `finish` (a
debit that comes later than it took effect), `held` (units that a reservation holds), `exhaustion` (does it stop the customer
whatever is asked), `changes_at_us` (when that changes by itself), `alone` (what of it one process may enforce by itself in
an outage), and a `Counter` (None: it counts nothing) that knows its bytes. `script.py` joins the
`.lua` files, and a property test holds the twins equal.
"""

from __future__ import annotations

from typing import Any, Final

from spendgate.limits.concurrency import Concurrency, OpenCounter
from spendgate.limits.counter import PeriodCounter
from spendgate.limits.credits import Credits, WalletCounter, Weight
from spendgate.limits.per_event import PerEvent
from spendgate.limits.quota import Quota, Threshold
from spendgate.limits.rate import Rate, RateCounter
from spendgate.limits.result import MAX_COUNTER, LimitResult

Limit = Quota | Credits | Rate | Concurrency | PerEvent
"""Every limit kind, told apart by its `kind` field when encoded."""

Counter = PeriodCounter | WalletCounter | RateCounter | OpenCounter

NOT_KEPT: Final = b""
"""Stands for a counter that isn't kept: of one value too many (of a limit with `per`), or of a period long over."""

Counters = dict[str, Any]
"""By `counter_field`: what is stored, of the limit's own type, or NOT_KEPT. Limits that were never used are absent."""


def counter_field(limit: Limit) -> str:
    """Where a limit's counter is kept. The kind is part of it: under the same id, another kind counts other things."""
    return f"{limit.__struct_config__.tag}:{limit.id}"


def decode_counter(limit: Limit, raw: bytes) -> Any:
    """A stored counter of this limit, or NOT_KEPT. Raises ValueError for other bytes."""
    if raw == NOT_KEPT:
        return NOT_KEPT
    if limit.Counter is None:
        raise ValueError(f"limit {limit.id!r} keeps no counter")
    return limit.Counter.decode(raw)


def counter_of_field(field: str, raw: bytes) -> Counter:
    """A counter whose limit is known by its `counter_field` only. Raises ValueError."""
    kind = field.partition(":")[0]
    counts = {limit.__struct_config__.tag: limit.Counter for limit in (Quota, Credits, Rate, Concurrency)}
    if kind not in counts:
        raise ValueError(f"{field!r} counts nothing")
    return counts[kind].decode(raw)


def speaks_of_all(limit: Limit) -> bool:
    """Whether the limit concerns the customer as a whole: only such a one stops the customer, or counts usage
    recorded elsewhere."""
    return not limit.match and limit.per is None


def rule_of(limit: Limit) -> list[Any]:
    """What the script reads of a limit. The head is common to all kinds (see customer.lua)."""
    meters = limit.meters[0] if len(limit.meters) == 1 else list(limit.meters)
    enforced = limit.mode == "enforce"
    return [
        limit.__struct_config__.tag,
        limit.id,
        meters,
        limit.when_exceeded == "stop",
        enforced,
        enforced and speaks_of_all(limit) and isinstance(limit, Quota | Credits),
        limit.match or False,
        limit.per or False,
        limit.max_values,
        *limit.rule(),
    ]


__all__ = [
    "MAX_COUNTER",
    "NOT_KEPT",
    "Concurrency",
    "Counter",
    "Counters",
    "Credits",
    "Limit",
    "LimitResult",
    "OpenCounter",
    "PerEvent",
    "PeriodCounter",
    "Quota",
    "Rate",
    "RateCounter",
    "Threshold",
    "WalletCounter",
    "Weight",
    "counter_field",
    "counter_of_field",
    "decode_counter",
    "rule_of",
    "speaks_of_all",
]
