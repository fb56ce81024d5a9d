"""What is exchanged with UsageBox, in our words."""

from __future__ import annotations

from typing import Literal

import msgspec

Dialect = Literal["hosted", "usagedb"]
"""The hosted service's public examples, or the open engine (usageDb 0.4.0)."""


class UsageEvent(msgspec.Struct, frozen=True):
    """`timestamp_ms` is Unix milliseconds; `source` tells who recorded it."""

    event_id: str
    account_id: str
    meter_id: str
    quantity: int
    unit: str
    timestamp_ms: int
    source: str
    model_id: str | None = None


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
