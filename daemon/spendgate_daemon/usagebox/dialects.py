"""The two dialects of the metering API, field by field.

The hosted one has no `kind`: its public examples know no correction. A negative quantity there would be a guess that ends in
an invoice, so an event that isn't plain usage is refused here, and whoever sent it shows it as undeliverable.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from spendgate_daemon.usagebox.errors import NotInDialect
from spendgate_daemon.usagebox.values import CorrectionRef, Dialect, TotalLine, UsageEvent

PRODUCT: Final = "spendgate"
"""usageDb wants a product on every event; gated usage has no other."""


def encode_event(event: UsageEvent, dialect: Dialect) -> dict[str, Any]:
    """One event of `POST /v1/usage/batch`. The same event always gives the same object. Raises NotInDialect."""
    return _encode_hosted(event) if dialect == "hosted" else _encode_usagedb(event)


def _encode_hosted(event: UsageEvent) -> dict[str, Any]:
    if event.kind != "Usage":
        raise NotInDialect(f"the hosted API has no {event.kind}: {event.event_id} was not sent")
    encoded: dict[str, Any] = {
        "event_id": event.event_id,
        "account_id": event.account_id,
        "product_id": PRODUCT,
        "meter_id": event.meter_id,
        "quantity": event.quantity,
        "unit": event.unit,
        "timestamp": rfc3339_ms(event.timestamp_ms),
        "source": event.source,
    }
    return encoded if event.model_id is None else encoded | {"model_id": event.model_id}


def _encode_usagedb(event: UsageEvent) -> dict[str, Any]:
    about = event.correction_ref
    return {
        "event_id": event.event_id,
        "kind": event.kind,
        "correction_ref": {"original_event_id": about.original_event_id, "reason": about.reason} if about else None,
        "account_id": event.account_id,
        "subscription_id": None,
        "product_id": PRODUCT,
        "meter_id": event.meter_id,
        "model_id": event.model_id,
        "quantity": event.quantity,
        "unit": event.unit,
        "timestamp_ms": event.timestamp_ms,
        "source": event.source,
        "dimensions": {"inner": {}},
        "ingested_at_ms": 0,
    }


def decode_event(raw: Any) -> UsageEvent:
    """An event of `GET .../usage/events`, in either dialect. Raises KeyError, TypeError or ValueError."""
    about = raw.get("correction_ref")
    at_ms = raw["timestamp_ms"] if "timestamp_ms" in raw else instant_ms(raw["timestamp"])
    return UsageEvent(
        event_id=raw["event_id"],
        account_id=raw["account_id"],
        meter_id=raw["meter_id"],
        quantity=int(raw["quantity"]),
        unit=raw.get("unit", ""),
        timestamp_ms=at_ms,
        source=raw.get("source") or "",
        model_id=raw.get("model_id"),
        kind=raw.get("kind", "Usage"),
        correction_ref=CorrectionRef(about["original_event_id"], about["reason"]) if about else None,
    )


def decode_totals(body: Any, group_by: tuple[str, ...]) -> list[TotalLine]:
    """The answer of `GET /v1/accounts/{id}/usage` in either dialect: quantities are numbers in one and text in the
    other. The counts say nothing that we use. Raises KeyError, TypeError or ValueError."""
    lines = body["groups"] if "groups" in body else body["lines"]
    return [
        TotalLine(
            {key: key_text(line.get(key)) for key in group_by},
            int(line["sum"] if "sum" in line else line["quantity"]),
        )
        for line in lines
    ]


def dialect_of(body: Any) -> Dialect | None:
    """Which dialect an answer of totals is in, even an empty one; None where it is neither's, or both's."""
    if not isinstance(body, dict):
        return None
    hosted = isinstance(body.get("groups"), list)
    usagedb = isinstance(body.get("lines"), list) and isinstance(body.get("watermark_ms"), int)
    if hosted == usagedb:
        return None
    return "hosted" if hosted else "usagedb"


def key_text(value: Any) -> str:
    """The value of a grouped column; an event without it has none in one dialect and "" in the other."""
    return "" if value is None else str(value)


def rfc3339_ms(timestamp_ms: int) -> str:
    """Unix milliseconds as text, always with three digits of them."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant_ms(text: str) -> int:
    """Unix milliseconds of an RFC 3339 instant. Raises ValueError, also for one without a zone."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return round(instant.timestamp() * 1000)
