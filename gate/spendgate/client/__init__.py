"""The clients: one line in an agent loop.

`Gate` is for asyncio, `SyncGate` for threads. Both check the event, run one script, and return what it decided;
they share everything but the waiting.
"""

from __future__ import annotations

from spendgate.client.asynchronous import Gate
from spendgate.client.threaded import SyncGate

__all__ = ["Gate", "SyncGate"]
