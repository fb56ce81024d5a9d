"""The two dialects of the metering API, field by field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from spendgate_daemon.usagebox.errors import UsageBoxUnavailable
from spendgate_daemon.usagebox.values import Dialect, TotalLine, UsageEvent

PRODUCT: Final = "spendgate"
"""usageDb wants a product on every event; gated usage has no other."""


def encode_event(event: UsageEvent, dialect: Dialect) -> dict[str, Any]:
    """One event of `POST /v1/usage/batch`. The same event always gives the same object."""
    if dialect == "hosted":
        moment = datetime.fromtimestamp(event.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
        encoded: dict[str, Any] = {
            "event_id": event.event_id,
            "account_id": event.account_id,
            "product_id": PRODUCT,
            "meter_id": event.meter_id,
            "quantity": event.quantity,
            "unit": event.unit,
            "timestamp": moment.replace("+00:00", "Z"),
            "source": event.source,
        }
        return encoded if event.model_id is None else encoded | {"model_id": event.model_id}
    return {
        "event_id": event.event_id,
        "kind": "Usage",
        "correction_ref": None,
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


def decode_totals(body: Any, group_by: tuple[str, ...]) -> list[TotalLine]:
    """The answer of `GET /v1/accounts/{id}/usage` in either dialect: quantities are numbers in one and text in the
    other. The counts say nothing that we use."""
    try:
        lines = body["groups"] if "groups" in body else body["lines"]
        return [
            TotalLine(
                {key: _key_text(line.get(key)) for key in group_by},
                int(line["sum"] if "sum" in line else line["quantity"]),
            )
            for line in lines
        ]
    except (KeyError, TypeError, ValueError) as exc:
        raise UsageBoxUnavailable(f"UsageBox answered totals that make no sense: {exc!r}") from exc


def _key_text(value: Any) -> str:
    return "" if value is None else str(value)
