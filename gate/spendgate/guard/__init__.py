"""`@gate.guard(...)`: a function that runs only when the gate lets it.

Without `used`, the event is decided and debited before the call. With `used`, its quantities are reserved before the
call, and what `used` says of the result (of each item, for a generator) is committed after it; a call that raises, or
a stream that is closed early, commits what was counted until then. A denied call raises `Denied` and never starts.
"""

from __future__ import annotations

from spendgate.guard.asynchronous import Guard, guard
from spendgate.guard.passed import WhenUnavailable
from spendgate.guard.terms import Arguments, Used
from spendgate.guard.threaded import SyncGuard, guard_sync

__all__ = ["Arguments", "Guard", "SyncGuard", "Used", "WhenUnavailable", "guard", "guard_sync"]
