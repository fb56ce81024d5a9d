"""How scripts reach Redis: one Redis, a Cluster, or a master that Sentinels name; for asyncio and for threads.

`connect` and `connect_sync` make a transport from a URL; `redis_client` is redis-py's client, for everything else, and
`own_errors` gives its errors the gate's names.
"""

from __future__ import annotations

from spendgate.transports.connect import connect, connect_sync
from spendgate.transports.port import Argument, SyncTransport, Transport
from spendgate.transports.redis_py import own_errors, redis_client

__all__ = ["Argument", "SyncTransport", "Transport", "connect", "connect_sync", "own_errors", "redis_client"]
