"""What the relays count."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

STORED = Counter("spendgate_stored_records_total", "Outbox records written to the store", ["kind"])
GAPS = Counter("spendgate_outbox_gaps_total", "Outbox sequence numbers that were missing; each is a lost record")
LOST_TAILS = Gauge("spendgate_outbox_lost_tails", "Partitions whose Redis is behind the store: it forgot decisions")
HELD = Gauge("spendgate_outbox_held_partitions", "Partitions whose next record can't be read")
RELAY_LAG = Gauge("spendgate_store_relay_lag_seconds", "Age of the newest record when it was stored")
MISMATCHES = Counter("spendgate_verifier_mismatches_total", "Stored decisions that the definition decides otherwise")
VERIFIED = Counter("spendgate_verifier_verified_total", "Stored decisions that the definition decides the same")
DELIVERED = Counter("spendgate_deliveries_total", "Deliveries by sink and end", ["sink", "end"])
SWEPT = Counter("spendgate_swept_customers_total", "Customers whose state changed by itself")
ADVISED = Counter("spendgate_advised_customers_total", "Advisory keys written")
