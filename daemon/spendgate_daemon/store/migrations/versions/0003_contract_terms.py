"""Time zone, billing day and expiring grants of a customer's contract"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("customers", sa.Column("timezone", sa.String(length=64), nullable=True))
    op.add_column("customers", sa.Column("billing_anchor_day", sa.Integer(), nullable=True))
    op.add_column("customers", sa.Column("grants", sa.Text(), server_default="[]", nullable=False))
