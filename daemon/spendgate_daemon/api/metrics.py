"""What the API measures."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

DECISIONS = Counter("spendgate_decisions_total", "Decisions by outcome and reason", ["outcome", "reason"])
DECISION_SECONDS = Histogram(
    "spendgate_decision_seconds",
    "Time to answer one request on the decision path",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
)
PROBLEMS = Counter("spendgate_http_problems_total", "Answers that were problems", ["status", "slug"])
