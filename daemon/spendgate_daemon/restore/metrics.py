"""What restoring counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

RESTORED = Counter("spendgate_restored_customers_total", "Customers restored in Redis from the store", ["after"])
DEGRADED = Gauge("spendgate_degraded_partitions", "Partitions of Redis that decide nothing until they are restored")
