"""Where a Redis listens."""

from __future__ import annotations

import socket
from typing import Final

import msgspec

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds, seconds, probes; as redis-py has them. What a platform lacks is left to its defaults."""


class Endpoint(msgspec.Struct, frozen=True):
    """A TCP address, or a Unix socket if `path` is set."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


def tune(connected: socket.socket) -> None:
    """Send without delay, and probe an idle TCP connection, so that no firewall forgets it and no lost peer goes unseen."""
    if connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
