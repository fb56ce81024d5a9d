"""Alembic runs this; the connection is the store's own."""

from __future__ import annotations

from alembic import context

from spendgate_daemon.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
