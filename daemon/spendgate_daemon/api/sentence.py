"""A customer's state in one English sentence, as people read it on the customer page."""

from __future__ import annotations

from spendgate.limits.result import LimitResult
from spendgate.local_time import local_text
from spendgate.reasons import quantity_text
from spendgate.snapshot import Snapshot


def sentence_of(snapshot: Snapshot) -> str:
    """The customer's state in one sentence, with the reason and when it ends, in the customer's time zone."""
    standing = snapshot.standing
    end = (
        f" until {local_text(standing.next_change_at_us, snapshot.policy.timezone)}"
        if standing.next_change_at_us
        else ""
    )
    if standing.state == "suspended":
        status = snapshot.state.status if snapshot.state is not None else "suspended"
        return f"Suspended: the billing system says {status}."
    lines = [line for line in snapshot.limits() if line.mode == "enforce" and line.remaining is not None]
    exhausted = [line for line in lines if line.kind in ("quota", "credits") and (line.remaining or 0) <= line.floor]
    if standing.state == "stopped":
        if any(override.kind == "stop" and override.until_us > snapshot.now_us for override in snapshot.overrides):
            return f"Stopped by an override{end}."
        return f"Stopped{end}: {_exhausted_text(exhausted)}."
    if standing.state == "throttled":
        if exhausted:
            return f"Throttled{end}: {_exhausted_text(exhausted)}."
        return f"Throttled{end}: a rate limit denied an event in the last 10 seconds."
    if exhausted:
        return f"Allowed by an override{end}, although {_exhausted_text(exhausted)}."
    return "Allowed: every limit has room."


def _exhausted_text(lines: list[LimitResult]) -> str:
    return " and ".join(
        f"{line.id} has {quantity_text(max(0, line.remaining or 0), line.unit)} left of "
        f"{quantity_text(line.limit or 0, line.unit)}"
        for line in lines
    )
