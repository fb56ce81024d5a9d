"""An index of what sinks refused for good"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("state IN ('dead', 'discarded')")
    columns = ["sink", "position"]
    op.create_index("ix_deliveries_not_taken", "deliveries", columns, sqlite_where=where, postgresql_where=where)
