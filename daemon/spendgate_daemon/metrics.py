"""What the processes themselves count; each part counts its own work in its `metrics.py`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

JOB_RUNS = Counter("spendgate_job_runs_total", "Runs of a background job by outcome", ["job", "outcome"])
JOB_SECONDS = Histogram(
    "spendgate_job_seconds", "How long a run of a job took", ["job"], buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60)
)
JOB_WORK = Counter("spendgate_job_work_total", "Pieces of work that a job did", ["job"])
JOB_LAST_SUCCESS = Gauge("spendgate_job_last_success_timestamp_seconds", "When a job last succeeded", ["job"])
OUTBOX_ENTRIES = Gauge("spendgate_outbox_entries", "Decisions in Redis that the store does not have yet")
LEADS = Gauge("spendgate_leads", "1 where this daemon runs the scheduled jobs")
PARTITIONS_HELD = Gauge("spendgate_partitions_held", "Partitions that this daemon relays")
