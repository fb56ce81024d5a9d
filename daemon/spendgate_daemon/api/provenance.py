"""Where each number of a customer comes from: its source, that source's version, and how old it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spendgate.limits import Credits, PeriodCounter, Quota, WalletCounter, counter_field
from spendgate.reasons import rfc3339
from spendgate.snapshot import Snapshot
from spendgate_daemon.store.customers import Listed
from spendgate_daemon.store.usage import Total


def provenance_of(found: Listed, snapshot: Snapshot, totals: Sequence[Total]) -> list[dict[str, Any]]:
    """One row a number; `as_of` None: it was never read."""
    return list(_rows(found, snapshot, totals))


def _rows(found: Listed, snapshot: Snapshot, totals: Sequence[Total]) -> Iterator[dict[str, Any]]:
    customer, now_us = found.customer, snapshot.now_us

    def row(number: str, source: str, version: str | None, at_us: int) -> dict[str, Any]:
        return {
            "number": number,
            "source": source,
            "version": version,
            "as_of": rfc3339(at_us) if at_us else None,
            "age_seconds": round(max(0, now_us - at_us) / 1_000_000, 1) if at_us else None,
        }

    # Terms of UsageBox are compared with it in each poll; the others' are as old as their last change.
    polled = customer.source in ("usagebox", "catalog") and snapshot.mirrored_at_us
    terms_at_us = max(customer.updated_at_us, snapshot.mirrored_at_us) if polled else customer.updated_at_us
    yield row("plan, status, caps, credits granted", customer.source, str(customer.version), terms_at_us)
    yield row("limits in force", "policy document", snapshot.policy.document[:12], customer.updated_at_us)
    yield row("used, reserved, left, state", "this gate", str(snapshot.standing.version), now_us)
    for limit in snapshot.policy.limits:
        counter = snapshot.counters.get(counter_field(limit))
        if isinstance(limit, Quota | Credits) and not limit.match and not (isinstance(limit, Quota) and limit.per):
            at_us = counter.external_at_us if isinstance(counter, PeriodCounter | WalletCounter) else 0
            yield row(f"outside the gate, {limit.id}", "UsageBox", None, at_us)
    for total in totals:
        yield row(f"billed, {total.meter}", "UsageBox", None, total.read_at_us)
    yield row("burn, forecast", "this gate", None, found.observed_at_us)
