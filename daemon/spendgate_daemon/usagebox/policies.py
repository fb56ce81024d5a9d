"""Our contract for what UsageBox does not document: policy state by cursor, and policy flags.

Kept in one module, so that it can be changed in one place when UsageBox publishes its own.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from spendgate.reasons import rfc3339
from spendgate_daemon.usagebox.errors import UsageBoxUnavailable
from spendgate_daemon.usagebox.values import CustomerPolicy

POLICIES_PATH: Final = "/api/v1/policies"
FLAGS_PATH: Final = "/api/v1/policies/flags"

WEBHOOK_TYPES: Final = frozenset(
    {"policy.updated", "subscription.updated", "credits.granted", "policy.flagged", "policy.cleared"}
)


class _Page(msgspec.Struct):
    policies: list[CustomerPolicy]
    next_cursor: str


def decode_policies(body: bytes) -> tuple[list[CustomerPolicy], str]:
    """Customers that changed, and the cursor to ask with next time."""
    try:
        page = msgspec.json.decode(body, type=_Page)
    except msgspec.MsgspecError as exc:
        raise UsageBoxUnavailable(f"UsageBox answered policies that make no sense: {exc}") from exc
    return page.policies, page.next_cursor


def encode_flag(customer_id: str, policy: str, reason: str, decision_id: str, occurred_at_us: int) -> dict[str, Any]:
    return {
        "customer_id": customer_id,
        "policy": policy,
        "reason": reason,
        "decision_id": decision_id,
        "occurred_at": rfc3339(occurred_at_us),
    }
