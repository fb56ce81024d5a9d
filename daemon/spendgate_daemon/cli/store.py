"""The store, for commands that open it themselves: whoever can do that is an administrator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from spendgate_daemon.cli.starting import WRONG_SETTINGS, fail, read_settings
from spendgate_daemon.store import Store


@contextmanager
def opened_store(home: Path | None) -> Iterator[Store]:
    """The configured store, or that of a running `spendgate up`. Exits with a message when there is none."""
    settings = read_settings(home)
    if settings.database_url is None:
        fail(f"SPENDGATE_DATABASE_URL is not set, and no `spendgate up` is running in {settings.home}", WRONG_SETTINGS)
    try:
        store = Store.open(settings.database_url)
    except SQLAlchemyError as exc:
        fail(f"the store can't be opened: {exc}")
    try:
        yield store
    finally:
        store.close()
