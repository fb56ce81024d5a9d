"""Usage events as the engine takes them: which batches it can't read, which events it refuses, and how it shows them.

usageDb reads a batch whole or not at all: a missing key or one of the wrong type is a 422 for all of it, while an event that
breaks a rule is only counted. What the hosted API does with a missing key is not documented; here it is counted.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from litestar.exceptions import HTTPException

from spendgate_daemon.sandbox.reading import instant_ms
from spendgate_daemon.usagebox.dialects import rfc3339_ms
from spendgate_daemon.usagebox.values import CorrectionRef, Dialect, EventKind

MAX_DIMENSIONS: Final = 16
MAX_STORED: Final = 2**63 - 1
"""The engine's quantities have 128 bits; this file's have 64."""

LATEST_MS: Final = 253_402_300_800_000
"""The year 10000, which no calendar here reaches."""


class Dimensions(msgspec.Struct, frozen=True):
    inner: dict[str, str] = {}


class EngineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of usageDb: what has no default must be there."""

    event_id: str
    kind: EventKind
    correction_ref: CorrectionRef | None = None
    account_id: str
    subscription_id: str | None = None
    product_id: str
    meter_id: str
    model_id: str | None = None
    quantity: int
    unit: str
    timestamp_ms: int
    source: str
    dimensions: Dimensions
    ingested_at_ms: int


class EngineBatch(msgspec.Struct, frozen=True):
    events: list[EngineEvent]


class HostedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the hosted API's public examples. It has no `kind`: whoever sends one means something else."""

    event_id: str
    account_id: str
    subscription_id: str | None = None
    product_id: str | None = None
    meter_id: str
    model_id: str | None = None
    quantity: int
    unit: str
    timestamp: str
    source: str | None = None
    dimensions: dict[str, Any] = {}
    kind: None = None


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of either dialect."""

    event_id: str
    kind: EventKind = "Usage"
    correction_ref: CorrectionRef | None = None
    account_id: str
    subscription_id: str | None = None
    product_id: str | None = None
    meter_id: str
    model_id: str | None = None
    quantity: int
    unit: str
    timestamp_ms: int
    source: str | None = None
    dimensions: dict[str, str] = {}

    @property
    def month(self) -> str:
        return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC).strftime("%Y-%m")

    def canonical(self) -> str:
        """The content that tells a duplicate from a conflict."""
        return json.dumps(msgspec.to_builtins(self), sort_keys=True, separators=(",", ":"))


def read_batch(body: bytes, dialect: Dialect) -> list[StoredEvent | None]:
    """The events of a batch; None for one that is rejected. Raises HTTPException when the batch can't be read."""
    try:
        if dialect == "usagedb":
            return [_of_engine(event) for event in msgspec.json.decode(body, type=EngineBatch).events]
        batch = msgspec.json.decode(body, type=dict[str, Any])
        return [_of_hosted(raw) for raw in msgspec.convert(batch.get("events"), list[Any])]
    except msgspec.ValidationError as exc:
        text = f"Failed to deserialize the JSON body into the target type: {exc}"
        raise HTTPException(text, status_code=422) from exc
    except msgspec.DecodeError as exc:
        raise HTTPException(f"Failed to parse the request body as JSON: {exc}", status_code=400) from exc


def _of_engine(event: EngineEvent) -> StoredEvent | None:
    if event.kind != "Usage" and event.correction_ref is None:
        return None
    if not event.product_id:
        return None
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "ingested_at_ms"}
    return _checked(StoredEvent(**fields | {"dimensions": event.dimensions.inner}))


def _of_hosted(raw: Any) -> StoredEvent | None:
    try:
        event = msgspec.convert(raw, HostedEvent)
        at_ms = instant_ms(event.timestamp)
        dimensions = msgspec.convert(event.dimensions.get("inner", event.dimensions), dict[str, str])
    except (msgspec.ValidationError, ValueError):
        return None
    if event.quantity < 0:
        return None
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name not in ("timestamp", "kind")}
    return _checked(StoredEvent(**fields | {"timestamp_ms": at_ms, "dimensions": dimensions}))


def _checked(event: StoredEvent) -> StoredEvent | None:
    named = event.event_id and event.account_id and event.meter_id
    in_range = 0 < event.timestamp_ms < LATEST_MS and abs(event.quantity) <= MAX_STORED
    return event if named and in_range and len(event.dimensions) <= MAX_DIMENSIONS else None


def shown(canonical: str, ingested_at_ms: int, dialect: Dialect) -> dict[str, Any]:
    """A stored event as the dialect shows it."""
    event: dict[str, Any] = json.loads(canonical)
    if dialect == "usagedb":
        return event | {"dimensions": {"inner": event["dimensions"]}, "ingested_at_ms": ingested_at_ms}
    event["timestamp"] = rfc3339_ms(event.pop("timestamp_ms"))
    kind = {name: event.pop(name) for name in ("kind", "correction_ref")}
    told = kind if kind["kind"] != "Usage" else {}  # the file was written in the other dialect
    return {name: value for name, value in event.items() if value is not None} | told
