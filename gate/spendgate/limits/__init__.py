"""The limit kinds. Each kind is a module here with its Lua twin beside it; this file is the wiring.

A kind is a frozen struct with `check` (one event against one counter) and `exhaustion` (does it stop the customer
whatever is asked). `scripts/` concatenates the `.lua` files, and a property test holds the twins equal.
"""

from __future__ import annotations

from spendgate.limits.concurrency import Concurrency
from spendgate.limits.credits import Credits, Weight
from spendgate.limits.per_event import PerEvent
from spendgate.limits.quota import Quota, Threshold
from spendgate.limits.rate import Rate
from spendgate.limits.result import MAX_COUNTER, LimitResult

Limit = Quota | Credits | Rate | Concurrency | PerEvent
"""Every limit kind, told apart by its `kind` field when encoded."""


def counter_field(limit: Limit) -> str:
    """Where a limit's counter is kept. The kind is part of it: under the same id, another kind counts other things."""
    return f"{limit.__struct_config__.tag}:{limit.id}"


__all__ = [
    "MAX_COUNTER",
    "Concurrency",
    "Credits",
    "Limit",
    "LimitResult",
    "PerEvent",
    "Quota",
    "Rate",
    "Threshold",
    "Weight",
    "counter_field",
]
