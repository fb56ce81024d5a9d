"""One engine, SQLite or PostgreSQL, with the same guarantees: a committed transaction survives a power cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from operator import itemgetter
from typing import Any, Final
from zlib import crc32

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite

BUSY_TIMEOUT_MS: Final = 15_000
STATEMENT_TIMEOUT_MS: Final = 60_000
CONNECT_TIMEOUT_SECONDS: Final = 5
MIGRATION_LOCK: Final = 737065
ORDER_LOCK: Final = 737066 << 32


class Database:
    """Threads may share it: `reading` and `writing` take a connection each."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._statements: dict[tuple[Any, ...], tuple[str, Callable[[Mapping[str, Any]], Any]]] = {}
        if self.is_sqlite:
            self.engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            timeout = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
            self.engine = sa.create_engine(parsed, pool_size=8, pool_pre_ping=True, connect_args=timeout)
            sa.event.listen(self.engine, "connect", _prepare_postgresql)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def moment(self) -> Iterator[sa.Connection]:
        """For several questions about one and the same moment."""
        connection = self.engine.connect()
        if not self.is_sqlite:  # there, a reader sees one moment anyway
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction; SQLite takes its write lock at the start, so that it can't fail half way for a reader."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def alone(self, connection: sa.Connection, lock: int) -> None:
        """Until the end of the transaction, nobody else gets past here with the same number. SQLite has one writer."""
        if not self.is_sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})

    def now_us(self, connection: sa.Connection) -> int:
        """The database's clock, Unix microseconds: the same for everybody who asks it."""
        if self.is_sqlite:
            return time.time_ns() // 1000  # it lives on this machine
        return int(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp()) * 1000000")).scalar_one())

    def in_order(self, connection: sa.Connection, table: sa.Table) -> None:
        """Until the end of the transaction, nobody else who asks for it inserts into the table: its positions become
        visible in their order, and a reader who keeps his place misses none."""
        self.alone(connection, ORDER_LOCK + crc32(table.name.encode()))

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        keys: Sequence[str],
        update: Mapping[str, Any] | Sequence[str] = (),
        where: Callable[[Any], sa.ColumnElement[bool]] | None = None,
    ) -> None:
        """Insert rows, which all have the same columns; where `keys` exist already, set the columns of `update` (a sequence
        takes the new values; a mapping gives expressions), or do nothing when it is empty. `where` makes of the new values'
        columns what must be true of those that are there, without parameters; for a sequence only.

        One statement for all rows: with the values in it, it took ten times as long. Rows go to the driver as they are,
        so a column's type must be one that the driver knows: SQLAlchemy's way with each value took as long as the rest.
        """
        if not rows:
            return
        if isinstance(update, Mapping):
            statement = self._insert(table).on_conflict_do_update(index_elements=list(keys), set_=dict(update))
            connection.execute(statement, [dict(row) for row in rows])
            return
        text, values_of = self._compiled(table, tuple(rows[0]), tuple(keys), tuple(update), where)
        connection.exec_driver_sql(text, list(map(values_of, rows)))

    def _compiled(
        self,
        table: sa.Table,
        columns: tuple[str, ...],
        keys: tuple[str, ...],
        update: tuple[str, ...],
        where: Callable[[Any], sa.ColumnElement[bool]] | None,
    ) -> tuple[str, Callable[[Mapping[str, Any]], Any]]:
        """SQL of an upsert as the driver reads it, and what makes of a row the values that it wants: by the order of their
        places (SQLite), or by their names."""
        asked = (table.name, columns, keys, update, where)
        found = self._statements.get(asked)
        if found is None:
            statement = self._insert(table)
            if update:
                taken = {name: statement.excluded[name] for name in update}
                condition = where(statement.excluded) if where is not None else None
                statement = statement.on_conflict_do_update(index_elements=list(keys), set_=taken, where=condition)
            else:
                statement = statement.on_conflict_do_nothing(index_elements=list(keys))
            compiled = statement.compile(dialect=self.engine.dialect, column_keys=columns)
            found = self._statements[asked] = (str(compiled), _values_in(compiled.positiontup or ()))
        return found

    def _insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def migrate(self) -> None:
        """Bring the schema to this version's. Idempotent; on PostgreSQL concurrent callers wait for each other. Where there is
        nothing to do, nothing is waited for: a process must be able to start while others write without a pause."""
        current, wanted = self.revisions()
        if current == wanted:
            return
        with self.writing() as connection:
            if not self.is_sqlite:  # a migration takes the time it takes, and others wait for it
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
            self.alone(connection, MIGRATION_LOCK)
            command.upgrade(self._alembic(connection), "head")

    def revisions(self) -> tuple[str | None, str | None]:
        """The schema's revision, and the one this version wants."""
        with self.reading() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            return current, ScriptDirectory.from_config(self._alembic(connection)).get_current_head()

    def close(self) -> None:
        self.engine.dispose()

    @staticmethod
    def _alembic(connection: sa.Connection) -> Config:
        config = Config()
        config.set_main_option("script_location", str(files("spendgate_daemon.store").joinpath("migrations")))
        config.attributes["connection"] = connection
        return config


def _values_in(places: Sequence[str]) -> Callable[[Mapping[str, Any]], Any]:
    """No places: the statement has names."""
    if len(places) > 1:
        return itemgetter(*places)
    return (lambda row: (row[places[0]],)) if places else dict


def without_nul(text: str) -> str:
    """PostgreSQL's text can't hold U+0000, and one such name must not hold up everybody behind it."""
    return text.replace("\x00", "")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says, not where the driver guesses
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    connection.autocommit = True
    connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
    connection.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    connection.autocommit = False


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
