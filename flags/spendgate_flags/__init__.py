"""Billing state as feature flags: derived in one place, served to every flag system.

`derive` says what the flags are; `provider` serves them in process; `ofrep` and `flagd` put them in the words of those
protocols.
"""

from __future__ import annotations

from spendgate_flags.derive import FLAG_KEYS, Flag, flags_of
from spendgate_flags.provider import SpendgateProvider

__all__ = ["FLAG_KEYS", "Flag", "SpendgateProvider", "flags_of"]
