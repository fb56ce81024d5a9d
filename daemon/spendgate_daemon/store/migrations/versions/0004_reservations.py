"""Indexes of reservations and their ends"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_partial("ix_decisions_reserving", ["at_us", "position"], "mode = 'reserve'")
    _create_partial("ix_decisions_finishing", ["customer_id", "event_id", "position"], "kind = 'finish'")


def _create_partial(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "decisions", columns, sqlite_where=where, postgresql_where=where)
