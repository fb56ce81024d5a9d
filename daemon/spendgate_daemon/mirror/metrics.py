"""What the mirror counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

APPLIED = Counter("spendgate_mirror_applied_total", "Policy states written to Redis", ["source"])
UNKNOWN_PLANS = Counter("spendgate_mirror_unknown_plans_total", "Policy states that name a plan the document lacks")
BAD_CONTRACTS = Counter(
    "spendgate_mirror_bad_contracts_total",
    "Policy states with a time zone or a billing day that does not exist, or an id or a number out of range",
)
OVERTAKEN = Counter(
    "spendgate_mirror_overtaken_total",
    "Policy states not written because Redis had a newer one, or one of a stronger source",
)
POLLS = Counter("spendgate_mirror_polls_total", "Polls of policy state", ["outcome"])
MISSING = Gauge("spendgate_mirror_missing_customers", "Customers that the last resync did not find in UsageBox")
CANCELLED = Counter("spendgate_mirror_cancelled_total", "Customers cancelled because they are gone from their source")
PARTIAL_RESYNCS = Counter(
    "spendgate_mirror_partial_resyncs_total", "Resyncs that left out so many customers that none was cancelled"
)
MIRRORED_AT = Gauge("spendgate_mirror_last_success_timestamp_seconds", "When policy state was last compared")
TOTALS_READ = Counter("spendgate_mirror_totals_total", "Usage totals read per customer", ["outcome"])
TOTALS_AGE = Gauge(
    "spendgate_mirror_oldest_totals_seconds", "Age of the longest unread customer's usage totals; 0 until all are read"
)
BROKEN_DOCUMENTS = Counter("spendgate_policy_documents_refused_total", "Changed policy documents that were not good")
WEBHOOKS = Counter(
    "spendgate_webhooks_total",
    "Webhooks: accepted, shed (valid, but so many wait that a poll covers it), ignored (a duplicate, or not about policy), "
    "refused (no valid signature or body)",
    ["outcome"],
)
