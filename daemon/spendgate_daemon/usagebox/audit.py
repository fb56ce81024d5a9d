"""What UsageBox says of its own sums: explain, verify, and the periods that it closed. Quantities are text.

Each function raises KeyError, TypeError or ValueError for what makes no sense.
"""

from __future__ import annotations

from typing import Any

from spendgate_daemon.usagebox.dialects import decode_event, key_text
from spendgate_daemon.usagebox.values import ExplainedLine, Explanation, Frozen, Period, Verification


def decode_explanation(body: Any) -> Explanation:
    return Explanation(
        lines=tuple(_decode_line(line) for line in body["lines"]),
        corrections=tuple(decode_event(event) for event in body["corrections"]),
    )


def _decode_line(line: Any) -> ExplainedLine:
    return ExplainedLine(
        product_id=key_text(line.get("product_id")),
        meter_id=line["meter_id"],
        model_id=key_text(line.get("model_id")),
        source=key_text(line.get("source")),
        unit=key_text(line.get("unit")),
        quantity=int(line["quantity"]),
    )


def decode_verification(body: Any) -> Verification:
    return Verification(
        raw_total=int(body["raw_total"]),
        rollup_total=int(body["rollup_total"]),
        drift=int(body["drift"]),
        matches=bool(body["matches"]),
        period_sealed=bool(body["period_sealed"]),
    )


def decode_period(body: Any) -> Period:
    if body["state"] == "Open":
        return Period("Open", int(body["total_quantity"]))
    if body["state"] != "Closed":
        raise ValueError(f"a period is Open or Closed, not {body['state']}")
    frozen = Frozen(int(body["frozen"]["quantity"]), int(body["frozen"]["event_count"]))
    return Period("Closed", int(body["net_total"]), frozen, tuple(body["pending_adjustments"]))
