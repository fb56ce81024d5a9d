"""Lines of the books as they were last compared"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "books",
        sa.Column("customer_id", sa.String(256), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("differs", sa.Boolean(), nullable=False),
        sa.Column("drifts", sa.Boolean(), nullable=False),
        sa.Column("compared_at_us", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_books_compared_at_us", "books", ["compared_at_us"])
    where = sa.text("differs")
    op.create_index(
        "ix_books_differing", "books", ["customer_id", "number"], sqlite_where=where, postgresql_where=where
    )
