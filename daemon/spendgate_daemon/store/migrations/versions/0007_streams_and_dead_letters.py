"""Marks of streams; what became of a delivery that did not go the plain way"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "streams",
        sa.Column("sink", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("attempted", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("sink", name="pk_streams"),
    )
    op.add_column("deliveries", sa.Column("first_attempt_us", sa.BigInteger()))
    op.add_column("deliveries", sa.Column("correction_id", sa.String(length=320)))
    op.add_column("deliveries", sa.Column("discarded_by", sa.Text()))
    op.add_column("deliveries", sa.Column("discarded_at_us", sa.BigInteger()))
    op.add_column("deliveries", sa.Column("discard_reason", sa.Text()))
