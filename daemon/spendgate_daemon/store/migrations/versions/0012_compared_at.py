"""When a customer's books were last compared, lines or none, so that everybody's are compared in turn"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("customers", sa.Column("compared_at_us", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_customers_compared_at_us_customer_id", "customers", ["compared_at_us", "customer_id"])
