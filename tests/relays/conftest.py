"""A store, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import pytest

from spendgate_daemon.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    """An empty store."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'store.db'}"
    else:
        url = request.getfixturevalue("new_postgres")()
    opened = Store.open(url)
    yield opened
    opened.close()
