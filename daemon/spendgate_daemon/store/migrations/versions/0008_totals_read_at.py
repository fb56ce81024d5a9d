"""When UsageBox's totals of a customer were last read, so that everybody's are read in turn"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

active = sa.text("observed_at_us > totals_read_at_us")


def upgrade() -> None:
    op.add_column("customers", sa.Column("totals_read_at_us", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_customers_totals_read_at_us", "customers", ["totals_read_at_us"])
    op.create_index(
        "ix_customers_active_totals_read_at_us",
        "customers",
        ["totals_read_at_us"],
        sqlite_where=active,
        postgresql_where=active,
    )
