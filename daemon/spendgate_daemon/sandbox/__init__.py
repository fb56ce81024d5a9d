"""The sandbox: an embedded UsageBox for development, demos and tests. It refuses what the real one refuses."""

from __future__ import annotations

from spendgate_daemon.sandbox.app import create_sandbox

__all__ = ["create_sandbox"]
