"""What UsageBox speaks: its metering API in both dialects, its catalog, and our contract for policies."""

from __future__ import annotations

from spendgate_daemon.usagebox.client import UsageBox
from spendgate_daemon.usagebox.errors import UsageBoxError, UsageBoxRefused, UsageBoxUnavailable
from spendgate_daemon.usagebox.values import BatchResult, CustomerPolicy, Dialect, Subscription, TotalLine, UsageEvent

__all__ = [
    "BatchResult",
    "CustomerPolicy",
    "Dialect",
    "Subscription",
    "TotalLine",
    "UsageBox",
    "UsageBoxError",
    "UsageBoxRefused",
    "UsageBoxUnavailable",
    "UsageEvent",
]
