"""How UsageBox answers us."""

from __future__ import annotations

from prometheus_client import Histogram

REQUESTS = Histogram(
    "spendgate_usagebox_request_seconds",
    "Requests to UsageBox by operation and outcome",
    ["operation", "outcome"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10),
)
