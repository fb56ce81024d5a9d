"""All tables. Migrations in `migrations/` lead here; a test holds the two equal.

Instants are Unix microseconds, quantities whole base units: 64-bit integers throughout.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for a column that is exactly INTEGER.
Position = BigInteger().with_variant(Integer(), "sqlite")


def _partial(index: Index, where: sa.ColumnElement[bool] | sa.TextClause) -> None:
    """Let the index hold only the rows of the condition. A query uses it where it says the same condition, literally."""
    for dialect in ("sqlite", "postgresql"):
        index.dialect_options[dialect]["where"] = where


customers = Table(
    "customers",
    metadata,
    Column("customer_id", String(256), primary_key=True),
    Column("name", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("caps", Text, nullable=False),
    Column("granted_micro_credits", BigInteger),
    Column("timezone", String(64)),
    Column("billing_anchor_day", Integer),
    Column("grants", Text, nullable=False, server_default="[]"),
    Column("version", BigInteger, nullable=False),
    Column("source", String(32), nullable=False),
    Column("policy_digest", String(32), nullable=False),
    Column("updated_at_us", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, server_default="ok"),
    Column("state_since_us", BigInteger, nullable=False, server_default="0"),
    Column("until_us", BigInteger, nullable=False, server_default="0"),
    Column("tightest", Text),
    Column("burn", Text),
    Column("exhausts_at_us", BigInteger),
    Column("observed_at_us", BigInteger, nullable=False, server_default="0"),
    Column("totals_read_at_us", BigInteger, nullable=False, server_default="0"),
    Column("compared_at_us", BigInteger, nullable=False, server_default="0"),
)
Index("ix_customers_exhausts_at_us", customers.c.exhausts_at_us)
Index("ix_customers_state", customers.c.state)
Index("ix_customers_totals_read_at_us", customers.c.totals_read_at_us)
Index("ix_customers_compared_at_us_customer_id", customers.c.compared_at_us, customers.c.customer_id)
active_since_read = sa.text("observed_at_us > totals_read_at_us")
_partial(Index("ix_customers_active_totals_read_at_us", customers.c.totals_read_at_us), active_since_read)

policy_documents = Table(
    "policy_documents",
    metadata,
    Column("digest", String(32), primary_key=True),
    Column("text", Text, nullable=False),
    Column("loaded_at_us", BigInteger, nullable=False),
)

effective_policies = Table(
    "effective_policies",
    metadata,
    Column("digest", String(32), primary_key=True),
    Column("encoded", LargeBinary, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("decision_id", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("customer_id", String(256), nullable=False),
    Column("event_id", String(256), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("mode", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("limit_id", String(64), nullable=False),
    Column("quantities", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("policy_digest", String(32), nullable=False),
    Column("verified", Boolean),
    Column("record", LargeBinary, nullable=False),
)
Index("ix_decisions_at_us_position", decisions.c.at_us, decisions.c.position)
Index("ix_decisions_customer_id_at_us_position", decisions.c.customer_id, decisions.c.at_us, decisions.c.position)

# Nearly every decision allows and is verified: indexes of the rest cost next to nothing and answer what people look for.
not_allow = sa.text("outcome <> 'allow'")
not_allowed = sa.text("reason <> 'allowed'")
mismatched = decisions.c.verified.is_(False)
_partial(Index("ix_decisions_denied", decisions.c.outcome, decisions.c.at_us, decisions.c.position), not_allow)
_partial(Index("ix_decisions_uncommon", decisions.c.reason, decisions.c.at_us, decisions.c.position), not_allowed)
_partial(Index("ix_decisions_mismatched", decisions.c.position), mismatched)

reserving = sa.text("mode = 'reserve'")
finishing = sa.text("kind = 'finish'")
_partial(Index("ix_decisions_reserving", decisions.c.at_us, decisions.c.position), reserving)
_partial(
    Index("ix_decisions_finishing", decisions.c.customer_id, decisions.c.event_id, decisions.c.position), finishing
)

# An event is debited once, whatever the gate has forgotten of it by then: see `relays/duplicates.py`.
debiting = sa.text("outcome = 'allow' AND mode IN ('decide', 'record', 'commit', 'expire', 'settle')")
_partial(Index("ix_decisions_debiting", decisions.c.customer_id, decisions.c.event_id, decisions.c.position), debiting)

guardrail_events = Table(
    "guardrail_events",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("id", String(80), nullable=False, unique=True),
    Column("customer_id", String(256), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("limit_id", String(64)),
    Column("from_state", String(16)),
    Column("to_state", String(16)),
    Column("decision_id", String(64)),
    Column("override_id", String(64)),
    Column("message", Text, nullable=False),
)
Index("ix_guardrail_events_customer_id_position", guardrail_events.c.customer_id, guardrail_events.c.position)
Index("ix_guardrail_events_kind_position", guardrail_events.c.kind, guardrail_events.c.position)

usage_events = Table(
    "usage_events",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("event_id", String(256), nullable=False, unique=True),
    Column("decision_id", String(64), nullable=False),
    Column("customer_id", String(256), nullable=False),
    Column("meter", String(256), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("unit", String(64), nullable=False),
    Column("model", Text),
    Column("at_us", BigInteger, nullable=False),
)
Index("ix_usage_events_customer_id_meter_at_us", usage_events.c.customer_id, usage_events.c.meter, usage_events.c.at_us)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sink", String(32), primary_key=True),
    Column("position", Position, primary_key=True),
    Column("item_id", String(256), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("next_attempt_us", BigInteger, nullable=False),
    Column("error", Text),
    Column("first_attempt_us", BigInteger),
    Column("correction_id", String(320)),
    Column("discarded_by", Text),
    Column("discarded_at_us", BigInteger),
    Column("discard_reason", Text),
)
not_delivered = sa.text("state <> 'delivered'")
_partial(Index("ix_deliveries_open", deliveries.c.sink, deliveries.c.position), not_delivered)
not_taken = sa.text("state IN ('dead', 'discarded')")
_partial(Index("ix_deliveries_not_taken", deliveries.c.sink, deliveries.c.position), not_taken)
Index("ix_deliveries_item_id", deliveries.c.item_id)

# Marks of sinks that take everything in order: see `streams.py`.
streams = Table(
    "streams",
    metadata,
    Column("sink", String(32), primary_key=True),
    Column("source", String(32), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("attempted", BigInteger, nullable=False),
    Column("error", Text),
)

# Counted as they happen: millions of delivered rows are not to be counted for every look at the relays.
delivered_totals = Table(
    "delivered_totals",
    metadata,
    Column("sink", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

cursors = Table(
    "cursors",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

# Lines of the books as they were last compared; see `books/line.py`.
books = Table(
    "books",
    metadata,
    Column("customer_id", String(256), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("line", Text, nullable=False),
    Column("differs", Boolean, nullable=False),
    Column("drifts", Boolean, nullable=False),
    Column("compared_at_us", BigInteger, nullable=False),
)
Index("ix_books_compared_at_us", books.c.compared_at_us)
_partial(Index("ix_books_differing", books.c.customer_id, books.c.number), sa.text("differs"))

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
)

rollups = Table(
    "rollups",
    metadata,
    Column("customer_id", String(256), primary_key=True),
    Column("meter", String(256), primary_key=True),
    Column("width_seconds", Integer, primary_key=True),
    Column("start_seconds", BigInteger, primary_key=True),
    Column("units", BigInteger, nullable=False),
    Column("allowed", BigInteger, nullable=False),
    Column("throttled", BigInteger, nullable=False),
    Column("stopped", BigInteger, nullable=False),
)
Index("ix_rollups_width_seconds_start_seconds", rollups.c.width_seconds, rollups.c.start_seconds)

external_usage = Table(
    "external_usage",
    metadata,
    Column("customer_id", String(256), primary_key=True),
    Column("meter", String(256), primary_key=True),
    Column("hour_start_seconds", BigInteger, primary_key=True),
    Column("quantity", BigInteger, nullable=False),
)

usagebox_totals = Table(
    "usagebox_totals",
    metadata,
    Column("customer_id", String(256), primary_key=True),
    Column("meter", String(256), primary_key=True),
    Column("period_start_seconds", BigInteger, nullable=False),
    Column("own", BigInteger, nullable=False),
    Column("external", BigInteger, nullable=False),
    Column("read_at_us", BigInteger, nullable=False),
)

overrides = Table(
    "overrides",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("request_key", String(320), unique=True),
    Column("customer_id", String(256), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("max_units", BigInteger, nullable=False),
    Column("bypass", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("paid_by", String(16), nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("expires_at_us", BigInteger, nullable=False),
    Column("revoked_by", Text),
    Column("revoked_at_us", BigInteger),
    Column("revoke_reason", Text),
    Column("ended", Boolean, nullable=False),
)
Index("ix_overrides_customer_id", overrides.c.customer_id)
Index("ix_overrides_ended_expires_at_us", overrides.c.ended, overrides.c.expires_at_us)

corrections = Table(
    "corrections",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("decision_id", String(64), nullable=False, unique=True),
    Column("correction_id", String(64), nullable=False),
    Column("corrects", String(64), nullable=False),
    Column("usage_id", String(256), nullable=False),
    Column("customer_id", String(256), nullable=False),
    Column("meter", String(256), nullable=False),
    Column("unit", String(64), nullable=False),
    Column("before", BigInteger, nullable=False),
    Column("after", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)
Index("ix_corrections_corrects", corrections.c.corrects, corrections.c.position)
Index("ix_corrections_correction_id", corrections.c.correction_id)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("principal", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("customer_id", String(256)),
    Column("created_at_us", BigInteger, nullable=False),
    Column("expires_at_us", BigInteger),
    Column("revoked_at_us", BigInteger),
)

sign_in_links = Table(
    "sign_in_links",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("principal", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("expires_at_us", BigInteger, nullable=False),
    Column("used_at_us", BigInteger),
)
