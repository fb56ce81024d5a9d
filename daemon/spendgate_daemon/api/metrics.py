"""What the API measures."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from spendgate.outage import Outage

DECISIONS = Counter("spendgate_decisions_total", "Decisions by outcome and reason", ["outcome", "reason"])
DECISION_SECONDS = Histogram(
    "spendgate_decision_seconds",
    "Time to answer one request on the decision path",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
)
DEGRADED = Counter("spendgate_degraded_decisions_total", "Decisions by the outage rule, without Redis", ["outcome"])
PROBLEMS = Counter("spendgate_http_problems_total", "Answers that were problems", ["status", "slug"])

OUTAGE = Gauge("spendgate_outage", "1 while Redis is not even asked")
OUTAGE_SLOT = Gauge("spendgate_outage_slot", "The slot that this process holds; 0 is none")
OUTAGE_UNSETTLED = Gauge("spendgate_outage_unsettled", "Events in the journal that Redis does not know yet")
OUTAGE_REFUSED = Gauge("spendgate_outage_refused", "Events in the journal that could not be debited; look at them")


def watch_outage(outage: Outage) -> None:
    """Gauges that are read when somebody asks."""
    OUTAGE.set_function(lambda: float(outage.status.is_open))
    OUTAGE_SLOT.set_function(lambda: outage.status.slot)
    OUTAGE_UNSETTLED.set_function(lambda: outage.status.unsettled)
    OUTAGE_REFUSED.set_function(lambda: outage.status.refused)
