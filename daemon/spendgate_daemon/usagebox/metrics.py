"""How UsageBox answers us."""

from __future__ import annotations

from prometheus_client import Enum, Gauge, Histogram

REQUESTS = Histogram(
    "spendgate_usagebox_request_seconds",
    "Requests to UsageBox by operation and outcome: a status, unavailable, cancelled, or held, which was not sent",
    ["operation", "outcome"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10),
)
BREAKER = Enum(
    "spendgate_usagebox_breaker", "The circuit breaker of requests to UsageBox", states=["closed", "half_open", "open"]
)
READ_RATE = Gauge("spendgate_usagebox_read_rate_per_second", "Reads a second that UsageBox is thought to bear")
