"""The store: every decision, what follows from it, and who may do what. SQLite on one machine, PostgreSQL for many."""

from __future__ import annotations

from spendgate_daemon.store.store import Store

__all__ = ["Store"]
