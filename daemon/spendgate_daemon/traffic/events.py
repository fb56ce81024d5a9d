"""One event to be sent, made from a run of an agent. The same run id and row give the same event, byte for byte."""

from __future__ import annotations

import msgspec

from spendgate_daemon.demo.profile import Run


class TrafficEvent(msgspec.Struct, frozen=True):
    """`at_seconds` is when it is due, from the start of the run at its recorded speed; `body` is the request's JSON."""

    row: int
    at_seconds: float
    customer_id: str
    quantities: dict[str, int]
    body: bytes


def traffic_event(run_id: str, row: int, at_seconds: float, customer_id: str, run: Run) -> TrafficEvent:
    """The usage event of one run. A meter of zero units is left out, as events have no zero quantities."""
    counted = {
        "ai_agent_run": 1,
        "tokens.input": run.context_tokens,
        "tokens.output": run.generated_tokens,
        "gpu.seconds": run.gpu_seconds,
    }
    quantities = {meter: quantity for meter, quantity in counted.items() if quantity > 0}
    body = {
        "event_id": f"{run_id}-{row:08d}",
        "customer_id": customer_id,
        "quantities": quantities,
        "metadata": {"model": run.model, "context_window": run.context_tokens + run.generated_tokens},
    }
    return TrafficEvent(row, at_seconds, customer_id, quantities, msgspec.json.encode(body))
