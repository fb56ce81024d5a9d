"""What is exchanged with UsageBox, in our words."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Dialect = Literal["hosted", "usagedb"]
"""The hosted service's public examples, or the open engine (usageDb 0.4.0)."""


EventKind = Literal["Usage", "Correction", "Retraction"]


class CorrectionRef(msgspec.Struct, frozen=True):
    """Which event is put right, and why."""

    original_event_id: str
    reason: str


class UsageEvent(msgspec.Struct, frozen=True):
    """`timestamp_ms` is Unix milliseconds; `source` tells who recorded it. Corrections and retractions name their event in
    `correction_ref` and add `quantity`, which may be negative, to the sum; only usageDb has them."""

    event_id: str
    account_id: str
    meter_id: str
    quantity: int
    unit: str
    timestamp_ms: int
    source: str
    model_id: str | None = None
    kind: EventKind = "Usage"
    correction_ref: CorrectionRef | None = None


class BatchResult(msgspec.Struct, frozen=True):
    """Counts only: which event of a batch was in conflict or rejected has to be found out by halving it."""

    accepted: int
    duplicates: int
    conflicts: int
    rejected: int


class TotalLine(msgspec.Struct, frozen=True):
    """`keys` are the values of the columns that were grouped by; hours are text of Unix milliseconds."""

    keys: dict[str, str]
    quantity: int


class CustomerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Policy state as UsageBox has it. Credits are whole; None: this customer has no wallet."""

    customer_id: str
    name: str
    plan: str
    status: Literal["active", "suspended", "cancelled"]
    credits_granted_total: int | None = None
    caps: dict[str, int] = {}
    version: int
    updated_at: str = ""


class Subscription(msgspec.Struct, frozen=True):
    customer_id: str
    plan_id: str
    status: str = "active"


class ExplainedLine(msgspec.Struct, frozen=True):
    """A part of an account's total."""

    product_id: str
    meter_id: str
    model_id: str
    source: str
    unit: str
    quantity: int


class Explanation(msgspec.Struct, frozen=True):
    """What a total is made of; `corrections` are in the lines, too."""

    lines: tuple[ExplainedLine, ...]
    corrections: tuple[UsageEvent, ...]


class Verification(msgspec.Struct, frozen=True):
    """An account's sum over raw events and over rollups. `period_sealed`: all of it is rolled up, so they must match."""

    raw_total: int
    rollup_total: int
    drift: int
    matches: bool
    period_sealed: bool


class Frozen(msgspec.Struct, frozen=True):
    """What a period held when it was closed."""

    quantity: int
    event_count: int


class Period(msgspec.Struct, frozen=True):
    """A calendar month, UTC. `quantity` is with adjustments; `frozen` None: it is open. What an adjustment looks like is
    not documented, so they are as they came."""

    state: Literal["Open", "Closed"]
    quantity: int
    frozen: Frozen | None = None
    pending_adjustments: tuple[dict[str, Any], ...] = ()
