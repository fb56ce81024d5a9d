"""One usage event, in either dialect, checked as the engine checks it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

MAX_DIMENSIONS: Final = 16
MAX_STORED: Final = 2**63 - 1
"""The engine's quantities have 128 bits; this file's have 64."""


class ValidEvent(msgspec.Struct, frozen=True):
    """`canonical` is the content that tells a duplicate from a conflict."""

    event_id: str
    kind: str
    account_id: str
    product_id: str | None
    meter_id: str
    model_id: str | None
    unit: str
    source: str | None
    quantity: int
    at_ms: int
    canonical: str

    @property
    def month(self) -> str:
        return datetime.fromtimestamp(self.at_ms / 1000, UTC).strftime("%Y-%m")


def validate(raw: Any) -> ValidEvent | None:
    """The event, or None when the engine would reject it. `timestamp_ms` marks the engine's dialect, `timestamp` the
    hosted one's."""
    if not isinstance(raw, dict):
        return None
    engine = "timestamp_ms" in raw
    at_ms = raw.get("timestamp_ms") if engine else _instant_ms(raw.get("timestamp"))
    kind = raw.get("kind", "Usage")
    quantity = raw.get("quantity")
    if type(at_ms) is not int or not 0 < at_ms < 10**14:
        return None
    if kind not in ("Usage", "Correction", "Retraction") or type(quantity) is not int or abs(quantity) > MAX_STORED:
        return None
    if (quantity < 0 or (engine and not raw.get("product_id"))) and kind == "Usage":
        return None
    if kind != "Usage" and not _is_reference(raw.get("correction_ref")):
        return None
    if not all(isinstance(raw.get(name), str) and raw[name] for name in ("event_id", "account_id", "meter_id")):
        return None
    texts = [raw.get(name) for name in ("product_id", "model_id", "subscription_id", "source")]
    if not isinstance(raw.get("unit"), str) or not all(text is None or isinstance(text, str) for text in texts):
        return None
    if not _are_dimensions(raw.get("dimensions")):
        return None
    content = {name: value for name, value in raw.items() if name != "ingested_at_ms"}
    return ValidEvent(
        event_id=raw["event_id"],
        kind=kind,
        account_id=raw["account_id"],
        product_id=raw.get("product_id"),
        meter_id=raw["meter_id"],
        model_id=raw.get("model_id"),
        unit=raw["unit"],
        source=raw.get("source"),
        quantity=quantity,
        at_ms=at_ms,
        canonical=json.dumps(content, sort_keys=True, separators=(",", ":")),
    )


def _instant_ms(value: Any) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    return round(instant.timestamp() * 1000) if instant.tzinfo is not None else None


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) and value[name] for name in ("original_event_id", "reason")
    )


def _are_dimensions(value: Any) -> bool:
    if value is None:
        return True
    inner = value.get("inner", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict) or len(inner) > MAX_DIMENSIONS:
        return False
    return all(isinstance(text, str) for text in inner.values())
