"""Where each reader stands. A cursor moves in the same transaction as what it read."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import cursors


class Overtaken(Exception):
    """Somebody else has done this work."""


class Cursors:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        with self._database.reading() as connection:
            return connection.execute(sa.select(cursors.c.value).where(cursors.c.name == name)).scalar()

    def starting_with(self, prefix: str) -> dict[str, str]:
        """Name to value of all cursors with this prefix."""
        with self._database.reading() as connection:
            query = sa.select(cursors.c.name, cursors.c.value).where(cursors.c.name.startswith(prefix, autoescape=True))
            return {row.name: row.value for row in connection.execute(query)}

    def put(self, values: dict[str, str], connection: sa.Connection | None = None) -> None:
        """Set cursors, in the given transaction or in one of its own."""
        if connection is None:
            with self._database.writing() as own:
                self.put(values, own)
            return
        rows = [{"name": name, "value": value} for name, value in values.items()]
        if rows:
            self._database.upsert(connection, cursors, rows, keys=["name"], update=["value"])

    def advance(self, before: Mapping[str, str | None], after: Mapping[str, str], connection: sa.Connection) -> None:
        """Move cursors that stand where the caller read from. Raises Overtaken, and the transaction is to end, when
        another has moved one of them meanwhile."""
        self.expect(before, connection)
        self.put(dict(after), connection)

    @staticmethod
    def expect(before: Mapping[str, str | None], connection: sa.Connection) -> None:
        """Raises Overtaken when one of them stands elsewhere."""
        query = sa.select(cursors.c.name, cursors.c.value).where(cursors.c.name.in_(before))
        found = {row.name: row.value for row in connection.execute(query)}
        for name, value in before.items():
            if found.get(name) != value:
                raise Overtaken(f"{name} stands at {found.get(name)}, not {value}: another replica has it")

    def forget(self, name: str) -> None:
        """Idempotent."""
        with self._database.writing() as connection:
            connection.execute(cursors.delete().where(cursors.c.name == name))
