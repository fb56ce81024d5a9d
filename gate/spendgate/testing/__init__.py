"""A gate without Redis, for the tests of applications.

>>> gate = FakeGate(plan(limits=[...]))  # doctest: +SKIP
>>> decision = await gate.decide("acme", "tokens.output", 1_200)  # doctest: +SKIP

It decides with the same definitions as the real one: the property test that holds the Redis scripts holds this fake, too.
Time stands still until `gate.clock` is moved.
"""

from __future__ import annotations

from spendgate.testing.fake import PLAYS, Clock, FakeGate, FakeSyncGate, MemoryTransport, SyncMemoryTransport
from spendgate.testing.memory import MemoryRedis

__all__ = ["PLAYS", "Clock", "FakeGate", "FakeSyncGate", "MemoryRedis", "MemoryTransport", "SyncMemoryTransport"]
