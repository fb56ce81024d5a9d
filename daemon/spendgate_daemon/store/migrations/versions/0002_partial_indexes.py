"""Indexes of what people look for, and a running total of deliveries"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_decisions_at_us", "decisions")
    op.drop_index("ix_decisions_customer_id_position", "decisions")
    op.create_index("ix_decisions_at_us_position", "decisions", ["at_us", "position"])
    op.create_index("ix_decisions_customer_id_at_us_position", "decisions", ["customer_id", "at_us", "position"])
    _create_partial("ix_decisions_denied", "decisions", ["outcome", "at_us", "position"], "outcome <> 'allow'")
    _create_partial("ix_decisions_uncommon", "decisions", ["reason", "at_us", "position"], "reason <> 'allowed'")
    _create_partial("ix_decisions_mismatched", "decisions", ["position"], sa.column("verified", sa.Boolean).is_(False))
    op.create_index("ix_guardrail_events_kind_position", "guardrail_events", ["kind", "position"])
    op.drop_index("ix_deliveries_sink_state_position", "deliveries")
    _create_partial("ix_deliveries_open", "deliveries", ["sink", "position"], "state <> 'delivered'")
    op.create_table(
        "delivered_totals",
        sa.Column("sink", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sink", name="pk_delivered_totals"),
    )
    op.execute(
        "INSERT INTO delivered_totals SELECT sink, count(*) FROM deliveries WHERE state = 'delivered' GROUP BY sink"
    )


def _create_partial(name: str, table: str, columns: list[str], where: str | sa.ColumnElement[bool]) -> None:
    condition = sa.text(where) if isinstance(where, str) else where
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
