"""A world for the mirror, on a real sandbox and a real Redis."""

from __future__ import annotations

import pytest

from mirror_world import World
from serving import serve
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.store import Store


@pytest.fixture
def world(run, control, gate, tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None)) as url:
        made = World(run, control, gate, store, url)
        yield made
        made.person.close()
        run(made.usagebox.aclose())
    store.close()
