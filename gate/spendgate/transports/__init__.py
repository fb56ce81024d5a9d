"""How scripts reach Redis."""

from __future__ import annotations

from spendgate.transport import Argument, RedisPyTransport, SyncRedisPyTransport, SyncTransport, Transport
from spendgate.transport import connect as connect_client


def connect(url: str, timeout_seconds: float) -> Transport:
    return RedisPyTransport(connect_client(url, timeout_seconds))


def connect_sync(url: str, timeout_seconds: float) -> SyncTransport:
    return SyncRedisPyTransport.from_url(url, timeout_seconds)


__all__ = ["Argument", "SyncTransport", "Transport", "connect", "connect_sync"]
