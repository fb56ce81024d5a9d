"""Spendgate's gate: decide, before the work is done, whether it still fits the customer's contract.

>>> gate = Gate.from_url("redis://localhost:6379/0")  # doctest: +SKIP
>>> decision = await gate.decide("acme", "tokens.output", 1_200)  # doctest: +SKIP
"""

from __future__ import annotations

from spendgate.client import Gate, SyncGate
from spendgate.decision import Decision
from spendgate.errors import (
    Conflict,
    GateUnavailable,
    InvalidEvent,
    NotPrepared,
    ScriptFailed,
    SpendgateError,
    UnknownMeter,
    WrongPolicy,
)
from spendgate.event import UsageEvent, usage_event
from spendgate.snapshot import Snapshot

__all__ = [
    "Conflict",
    "Decision",
    "Gate",
    "GateUnavailable",
    "InvalidEvent",
    "NotPrepared",
    "ScriptFailed",
    "Snapshot",
    "SpendgateError",
    "SyncGate",
    "UnknownMeter",
    "UsageEvent",
    "WrongPolicy",
    "usage_event",
]
