"""What UsageBox speaks: its metering API in both dialects, its catalog, and our contract for policies."""

from __future__ import annotations

from spendgate_daemon.usagebox.client import UsageBox
from spendgate_daemon.usagebox.errors import (
    DialectUnknown,
    NotInDialect,
    UsageBoxError,
    UsageBoxHeld,
    UsageBoxRefused,
    UsageBoxUnavailable,
)
from spendgate_daemon.usagebox.values import (
    BatchResult,
    CorrectionRef,
    CustomerPolicy,
    Dialect,
    Explanation,
    Period,
    Subscription,
    TotalLine,
    UsageEvent,
    Verification,
)

__all__ = [
    "BatchResult",
    "CorrectionRef",
    "CustomerPolicy",
    "Dialect",
    "DialectUnknown",
    "Explanation",
    "NotInDialect",
    "Period",
    "Subscription",
    "TotalLine",
    "UsageBox",
    "UsageBoxError",
    "UsageBoxHeld",
    "UsageBoxRefused",
    "UsageBoxUnavailable",
    "UsageEvent",
    "Verification",
]
