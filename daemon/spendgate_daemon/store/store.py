"""The store's front: one object, a group of queries for each noun."""

from __future__ import annotations

from typing import Self

from spendgate_daemon.store.books import Books
from spendgate_daemon.store.corrections import Corrections
from spendgate_daemon.store.cursors import Cursors
from spendgate_daemon.store.customers import Customers
from spendgate_daemon.store.database import Database
from spendgate_daemon.store.dead_letters import DeadLetters
from spendgate_daemon.store.decisions import Decisions
from spendgate_daemon.store.deliveries import Deliveries
from spendgate_daemon.store.guardrail_events import GuardrailEvents
from spendgate_daemon.store.keys import Keys
from spendgate_daemon.store.leases import Leases
from spendgate_daemon.store.overrides import Overrides
from spendgate_daemon.store.policies import Policies
from spendgate_daemon.store.streams import Streams
from spendgate_daemon.store.usage import Usage


class Store:
    """Synchronous and safe for threads; asyncio code calls it through `asyncio.to_thread`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.books = Books(database)
        self.customers = Customers(database)
        self.corrections = Corrections(database)
        self.cursors = Cursors(database)
        self.decisions = Decisions(database)
        self.streams = Streams(database)
        self.deliveries = Deliveries(database, self.streams)
        self.guardrail_events = GuardrailEvents(database)
        self.dead_letters = DeadLetters(database, self.guardrail_events)
        self.keys = Keys(database)
        self.leases = Leases(database)
        self.overrides = Overrides(database)
        self.policies = Policies(database)
        self.usage = Usage(database)

    @classmethod
    def open(cls, url: str, *, migrate: bool = True) -> Self:
        """Connect to `sqlite:///...` or `postgresql://...` and bring the schema up to date."""
        store = cls(Database(url))
        if migrate:
            store.database.migrate()
        return store

    def close(self) -> None:
        self.database.close()
