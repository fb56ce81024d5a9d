"""A decision as gateways understand it: by the HTTP status alone.

Throttled is 429 with an integer Retry-After (RFC 9110, section 10.2.3); stopped is 402 where more money or a larger plan
would let the event pass, and 403 where it is forbidden whatever is paid.
"""

from __future__ import annotations

from typing import Final

from spendgate.decision import Decision

EXHAUSTED_REASONS: Final = frozenset({"quota_exceeded", "credits_exceeded", "above_burst", "event_too_large"})
"""Stops that more money or a larger plan would lift."""


def status_of(decision: Decision) -> int:
    """200, 429, 402 or 403."""
    if decision.allowed:
        return 200
    if decision.outcome == "throttle":
        return 429
    return 402 if decision.reason in EXHAUSTED_REASONS else 403


def retry_after_seconds_of(decision: Decision) -> int | None:
    """What Retry-After says: 1 or more for a throttled event, None otherwise."""
    return max(1, decision.retry_after_seconds or 1) if decision.outcome == "throttle" else None
