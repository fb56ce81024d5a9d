"""Spendgate's gate: decide, before the work is done, whether it still fits the customer's contract.

>>> gate = Gate.from_url("redis://localhost:6379/0")  # doctest: +SKIP
>>> decision = await gate.decide("acme", "tokens.output", 1_200)  # doctest: +SKIP
"""

from __future__ import annotations

from spendgate.calls import Finished, OpenReservation
from spendgate.client import Gate, SyncGate
from spendgate.decision import Decision, Denied
from spendgate.errors import (
    AboveReserved,
    Conflict,
    GateUnavailable,
    InvalidEvent,
    NotPrepared,
    ReservationFinished,
    ScriptFailed,
    SpendgateError,
    TooLarge,
    TooManyReservations,
    UnknownMeter,
    UnknownReservation,
    WrongPolicy,
)
from spendgate.event import UsageEvent, usage_event
from spendgate.snapshot import Snapshot

__all__ = [
    "AboveReserved",
    "Conflict",
    "Decision",
    "Denied",
    "Finished",
    "Gate",
    "GateUnavailable",
    "InvalidEvent",
    "NotPrepared",
    "OpenReservation",
    "ReservationFinished",
    "ScriptFailed",
    "Snapshot",
    "SpendgateError",
    "SyncGate",
    "TooLarge",
    "TooManyReservations",
    "UnknownMeter",
    "UnknownReservation",
    "UsageEvent",
    "WrongPolicy",
    "usage_event",
]
