"""The HTTP API. The decision path is plain ASGI; everything else is a litestar app beside it."""

from __future__ import annotations

from spendgate_daemon.api.app import create_app
from spendgate_daemon.api.services import Services

__all__ = ["Services", "create_app"]
