"""Index of debits by event, which finds one that was debited twice"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("outcome = 'allow' AND mode IN ('decide', 'record', 'commit', 'expire', 'settle')")
    columns = ["customer_id", "event_id", "position"]
    op.create_index("ix_decisions_debiting", "decisions", columns, sqlite_where=where, postgresql_where=where)
