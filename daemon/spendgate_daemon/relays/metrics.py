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
SINK_WAITING = Gauge("spendgate_sink_waiting", "Events that a sink does not have yet", ["sink"])
SINK_LAG = Gauge("spendgate_sink_lag_seconds", "Age of the oldest event that a sink does not have yet", ["sink"])
SINK_DEAD = Gauge("spendgate_sink_dead", "Events that a sink refused for good, and nobody has dealt with", ["sink"])
RESERVATIONS_ENDED = Counter("spendgate_reservations_ended_total", "Reservations that ended, by reason", ["reason"])
RESERVATIONS_OPEN = Gauge(
    "spendgate_reservations_open", "Reservations that are open, as of the last round of comparing"
)
RESERVATIONS_OVERDUE = Gauge("spendgate_reservations_overdue", "Open reservations that are past their deadline")
RESERVATIONS_LOST = Gauge(
    "spendgate_reservations_lost", "Reservations of the last day without an end that Redis has no more"
)
REPAIRS = Counter("spendgate_reserved_repairs_total", "Customers whose counters did not add up to their reservations")
UNCOMPARED = Gauge("spendgate_reserved_uncompared_customers", "Customers with too many reservations to be compared")
UNREADABLE = Counter("spendgate_reserved_failures_total", "Customers that could not be compared")
SWEPT = Counter("spendgate_swept_customers_total", "Customers whose state changed by itself")
ADVISED = Counter("spendgate_advised_customers_total", "Advisory keys written")
DUPLICATES = Counter("spendgate_late_duplicates_total", "Events that were debited again and taken back")
