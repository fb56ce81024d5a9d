"""What lists, sums and delivery states answer, on both databases; and that no question reads the whole table."""

from __future__ import annotations

import itertools
import random
import threading

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command

from spendgate.event import MAX_ID_BYTES
from spendgate.keys import PARTITIONS, decision_id_of
from spendgate.limits.check import Grant
from spendgate.reasons import REASONS
from spendgate_daemon.relays.duplicates import duplicate_event
from spendgate_daemon.relays.extract import usage_id_of
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, RELAY_LOCK
from spendgate_daemon.relays.usagebox_corrections import correction_id_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.corrections import kept_id
from spendgate_daemon.store.customers import Customer, Customers
from spendgate_daemon.store.database import MIGRATION_LOCK, Database
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.store.schema import decisions, deliveries, metadata
from spendgate_daemon.store.usage import HOUR_SECONDS, MAX_POINTS, MINUTE_SECONDS

SINK = "usagebox.usage"


def decision(number, at_us, outcome="allow", reason="allowed", customer_id="acme"):
    return {
        "decision_id": f"d001-1-{number}",
        "kind": "decision",
        "customer_id": customer_id,
        "event_id": f"e{number}",
        "at_us": at_us,
        "mode": "decide",
        "outcome": outcome,
        "reason": reason,
        "limit_id": "",
        "quantities": "{}",
        "count": 1,
        "policy_digest": "x",
        "verified": None,
        "record": b"",
    }


def ids(store, **query):
    """All decision ids of a list, two a page."""
    found, cursor = [], None
    while True:
        page = store.decisions.page(limit=2, cursor=cursor, **query)
        found += [int(item.decision_id.rsplit("-", 1)[1]) for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


def deliver(store, numbers):
    rows = [{"sink": SINK, "position": n, "item_id": f"i{n}", "created_at_us": n} for n in numbers]
    with store.database.writing() as connection:
        store.deliveries.insert(connection, rows)


def test_decisions_are_listed_by_time_whatever_order_they_were_stored_in(store):
    times = [50, 10, 30, 30, 20]
    with store.database.writing() as connection:
        store.decisions.insert(connection, [decision(n, at_us) for n, at_us in enumerate(times)])
    assert ids(store) == [0, 3, 2, 4, 1]
    assert ids(store, from_us=20, to_us=50) == [3, 2, 4]
    assert ids(store, customer_id="nobody") == []


def test_rare_outcomes_and_reasons_are_found(store):
    rows = [decision(n, n) for n in range(5)]
    rows += [decision(5, 5, "stop", "quota_exceeded"), decision(6, 6, "throttle", "rate_exceeded")]
    rows += [decision(7, 7, "allow", "recorded")]
    with store.database.writing() as connection:
        store.decisions.insert(connection, rows)
    assert ids(store, outcome="stop") == [5]
    assert ids(store, reason="rate_exceeded") == [6]
    assert ids(store, reason="recorded", outcome="allow") == [7]
    assert ids(store, reason="allowed") == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("cursor", ["-1", "1.5", "x", str(2**63), "²"])
def test_a_foreign_cursor_is_refused(store, cursor):
    with pytest.raises(ValueError, match="cursor"):
        store.decisions.page(limit=2, cursor=cursor)
    with pytest.raises(ValueError, match="cursor"):
        store.guardrail_events.page(limit=2, cursor=cursor)


def test_both_ends_of_a_delivery_are_final_until_it_is_revived(store):
    deliver(store, [1, 2, 3])
    store.deliveries.mark(SINK, [1], "delivered")
    store.deliveries.mark(SINK, [2], "dead", error="poison")
    store.deliveries.mark(SINK, [1, 2, 3], "attempted", attempted_at_us=1)
    store.deliveries.mark(SINK, [1], "delivered")
    [sink] = store.deliveries.sinks()
    assert (sink.pending, sink.attempted, sink.delivered, sink.dead) == (0, 1, 1, 1)
    assert (sink.error, sink.oldest_pending_at_us) == ("poison", 3)
    assert store.dead_letters.retry(SINK) == 1
    assert [each.position for each in store.deliveries.due(SINK, 0, 9)] == [2, 3]
    store.deliveries.mark(SINK, [2, 3], "delivered")
    [sink] = store.deliveries.sinks()
    assert (sink.delivered, sink.dead, sink.oldest_pending_at_us) == (3, 0, None)


def test_a_sum_is_exact_whatever_its_edges(store):
    rng = random.Random(7)
    events = [(rng.randrange(0, 5 * HOUR_SECONDS * 1_000_000), rng.randrange(1, 100)) for _ in range(300)]
    usage, buckets = [], []
    for number, (at_us, quantity) in enumerate(events):
        base = {"customer_id": "acme", "meter": "tokens"}
        made = {"event_id": f"e{number}", "decision_id": f"e{number}", "quantity": quantity, "unit": "token"}
        usage.append(base | made | {"model": None, "at_us": at_us})
        seconds = at_us // 1_000_000
        buckets += [
            base
            | {"width_seconds": width, "start_seconds": seconds - seconds % width, "units": quantity}
            | {"allowed": 1, "throttled": 0, "stopped": 0}
            for width in (MINUTE_SECONDS, HOUR_SECONDS)
        ]
    with store.database.writing() as connection:
        store.usage.insert(connection, usage)
        for bucket in buckets:
            store.usage.add_rollups(connection, [bucket])
    for _ in range(60):
        start, end = sorted(rng.randrange(0, 5 * HOUR_SECONDS * 1_000_000) for _ in range(2))
        expected = sum(quantity for at_us, quantity in events if start <= at_us < end)
        assert store.usage.total("acme", "tokens", start, end) == expected, (start, end)
    assert store.usage.total("acme", "tokens", 0, 2**62) == sum(quantity for _, quantity in events)


def test_a_series_begins_with_a_whole_bucket_and_keeps_the_newest(store):
    hours = [("acme", "tokens", n * HOUR_SECONDS, 1) for n in range(MAX_POINTS + 10)]
    store.usage.save_external(hours)
    points = store.usage.series("acme", "tokens", 0, 2**40, HOUR_SECONDS)
    assert (len(points), points[-1].start_seconds) == (MAX_POINTS, hours[-1][2])
    [day] = store.usage.series("acme", "tokens", 5000, 86_400, 86_400)
    assert (day.start_seconds, day.external) == (0, 24)


def test_a_name_that_postgresql_cannot_hold_stops_nobody(store):
    fields = {"plan": "p", "status": "active", "version": 1, "source": "usagebox", "policy_digest": "x"}
    store.customers.save([Customer(customer_id="acme", name="Ac\x00me", updated_at_us=1, **fields)])
    assert store.customers.get("acme").customer.name == "Acme"


def test_what_a_contract_says_comes_back_as_it_was(store):
    fields = {
        "plan": "p",
        "status": "active",
        "version": 1,
        "source": "admin",
        "policy_digest": "x",
        "updated_at_us": 1,
    }
    grants = (Grant("a", 9 * 10**15, 7_258_118_400_000_000, -5), Grant("é\x1f", 0))
    customer = Customer(
        customer_id="acme", name="Acme", timezone="Asia/Tokyo", billing_anchor_day=31, grants=grants, **fields
    )
    store.customers.save([customer, Customer(customer_id="plain", name="Plain", **fields)])
    assert store.customers.get("acme").customer == customer
    plain = store.customers.get("plain").customer
    assert (plain.timezone, plain.billing_anchor_day, plain.grants) == (None, None, ())
    store.customers.save([msgspec.structs.replace(customer, timezone=None, grants=())])
    assert store.customers.get("acme").customer.grants == ()


def test_of_a_customer_s_states_the_same_one_is_kept_whoever_writes_last(store):
    def state(source, version, updated_at_us):
        return Customer(
            customer_id="acme",
            name="Acme",
            plan="basic",
            status="active",
            version=version,
            source=source,
            policy_digest="x",
            updated_at_us=updated_at_us,
        )

    rising = [state("customers.yaml", 9, 9), state("usagebox", 2, 8), state("usagebox", 3, 6), state("usagebox", 3, 7)]
    for number, order in enumerate(itertools.permutations([*rising, state("admin", 1, 5)])):
        for each in order:
            store.customers.save([msgspec.structs.replace(each, customer_id=f"c{number}")])
        kept = store.customers.get(f"c{number}").customer
        assert (kept.source, kept.version, kept.updated_at_us) == ("admin", 1, 5)
    for number, order in enumerate(itertools.permutations(rising)):
        store.customers.save([msgspec.structs.replace(each, customer_id=f"d{number}") for each in order])
        kept = store.customers.get(f"d{number}").customer
        assert (kept.source, kept.version, kept.updated_at_us) == ("usagebox", 3, 7)


def test_customers_of_an_older_version_have_no_contract_terms(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    with database.writing() as connection:
        command.upgrade(database._alembic(connection), "0002")
        connection.exec_driver_sql(
            "INSERT INTO customers (customer_id, name, plan, status, caps, version, source, policy_digest, updated_at_us) "
            "VALUES ('acme', 'Acme', 'p', 'active', '{\"tokens\": 5}', 3, 'usagebox', 'x', 7)"
        )
    database.migrate()
    customer = Customers(database).get("acme").customer
    assert (customer.caps, customer.version) == ({"tokens": 5}, 3)
    assert (customer.timezone, customer.billing_anchor_day, customer.grants) == (None, None, ())
    database.close()


def test_deliveries_made_before_the_running_total_are_in_it(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    with database.writing() as connection:
        command.upgrade(database._alembic(connection), "0001")
        row = {"sink": SINK, "item_id": "i", "attempts": 1, "created_at_us": 1, "next_attempt_us": 0, "error": None}
        states = ["delivered", "delivered", "pending"]
        connection.execute(deliveries.insert(), [row | {"position": n, "state": s} for n, s in enumerate(states)])
    database.migrate()
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT sink, number FROM delivered_totals")).all() == [(SINK, 2)]
    database.close()


def test_no_question_of_a_screen_or_a_relay_reads_the_whole_table(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'plans.db'}")
    database.migrate()
    asked = []
    sa.event.listen(
        database.engine,
        "before_cursor_execute",
        lambda c, cursor, statement, values, *_: asked.append((statement, values)),
    )
    from spendgate_daemon.store import Store

    store = Store(database)
    store.decisions.page(limit=9)
    store.decisions.page(limit=9, outcome="stop")
    store.decisions.page(limit=9, reason="quota_exceeded", cursor="5")
    store.decisions.page(limit=9, customer_id="acme", from_us=1, to_us=2)
    store.decisions.mismatches()
    store.deliveries.due(SINK, 1, 9)
    store.deliveries.waiting(SINK, 9)
    store.dead_letters.page(SINK, limit=9)
    store.guardrail_events.page(limit=9, kind="stopped")
    store.guardrail_events.of_kind("duplicate", 1, 9)
    store.decisions.newest_first("acme", None, 9)
    with database.writing() as connection:
        store.decisions.debited_before(connection, ["d001-1-1", "d001-1-2"])
    with database.reading() as connection:
        for statement, values in [each for each in asked if each[0].startswith("SELECT")]:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            steps = [row[3] for row in plan]
            assert not [s for s in steps if s.startswith("SCAN") and "INDEX" not in s], (statement, steps)
            assert not [s for s in steps if "TEMP B-TREE" in s], (statement, steps)
    database.close()


def test_two_relays_at_once_wait_for_each_other(store):
    """Seen on PostgreSQL; SQLite lets one writer in anyway."""
    entered, release, order = threading.Event(), threading.Event(), []

    def first():
        with store.database.writing() as connection:
            store.database.alone(connection, RELAY_LOCK)
            entered.set()
            assert release.wait(20)
            order.append("first")

    def second():
        with store.database.writing() as connection:
            store.database.alone(connection, RELAY_LOCK)
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert entered.wait(20)
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join(20)
    assert order == ["first", "second"]


def test_a_process_starts_while_others_write(store):
    url = store.database.engine.url.render_as_string(hide_password=False)
    with store.database.writing() as connection:
        store.database.alone(connection, MIGRATION_LOCK)
        Store.open(url).close()


def test_a_mismatch_is_counted(store):
    with store.database.writing() as connection:
        store.decisions.insert(connection, [decision(1, 1), decision(2, 2)])
        connection.execute(decisions.update().where(decisions.c.decision_id == "d001-1-1").values(verified=False))
    assert store.decisions.mismatches() == 1


@pytest.mark.parametrize("name", ["usage", "decisions", "guardrail_events"])
def test_positions_become_visible_in_their_order(store, name):
    """Somebody who inserts later waits: a reader who has seen his row would never look for the earlier one again."""
    rows = {
        "usage": lambda n: [usage_event(n)],
        "decisions": lambda n: [decision(n, n)],
        "guardrail_events": lambda n: [
            GuardrailEvent(id=f"g{n}", customer_id="acme", kind="repair", at_us=n, message="")
        ],
    }[name]
    insert = getattr(store, name).insert
    begun, seen = threading.Event(), []

    def later():
        begun.set()
        with store.database.writing() as connection:
            insert(connection, rows(2))
        seen.append([row.at_us for row in getattr(store, name).after(0, 9)])

    with store.database.writing() as connection:
        insert(connection, rows(1))
        thread = threading.Thread(target=later)
        thread.start()
        begun.wait()
        if not store.database.is_sqlite:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not connection.execute(sa.text(waiting)).scalar():
                pass
        assert not seen
    thread.join(20)
    assert seen == [[1, 2]]


def usage_event(number):
    fields = {"customer_id": "acme", "meter": "tokens", "quantity": 1, "unit": "token", "model": None, "at_us": number}
    return {"event_id": f"u{number}", "decision_id": f"u{number}"} | fields


DECISION = decision_id_of(PARTITIONS - 1, f"{2**64 - 1}-{2**64 - 1}")
NAME = "n" * 64
"""Of a meter or a limit, as documents may name them."""

ID = "i" * MAX_ID_BYTES
TWICE = duplicate_event({"decision_id": DECISION, "customer_id": ID, "at_us": 1, "event_id": ID}, DECISION).id
USAGE = usage_id_of(DECISION, NAME, (NAME, "other"))
LONGEST = {
    "customer_id": ID,
    "corrects": DECISION,
    "decision_id": DECISION,
    "event_id": max(ID, USAGE, key=len),
    "guardrail_events.id": max(TWICE, f"books.{ID[:40]}.{2**63}", key=len),
    "item_id": max(TWICE, USAGE, key=len),
    "usage_id": USAGE,
    "meter": NAME,
    "limit_id": NAME,
    "unit": "u" * 32,
    "reason": max(REASONS, key=len),
    "corrections.correction_id": max(kept_id(f"{TWICE}.{NAME}"), kept_id("x" * 64), key=len),
    "deliveries.correction_id": correction_id_of(USAGE),
    "cursors.name": f"{CURSOR_PREFIX}{PARTITIONS - 1:03d}",
}
OURS = {
    "api_keys.id", "digest", "holder", "kind", "leases.name", "mode", "outcome", "override_id", "overrides.id", "paid_by",
    "policy_digest", "secret_sha256", "sink", "source", "state", "from_state", "to_state", "status", "timezone",
    "token_sha256",
}  # fmt: skip
"""Words of the code's own, and names of time zones."""

PRINCIPALS = {"request_key"}
"""Who holds a key is named by an administrator, as long as they like."""


def test_every_text_fits_its_column():
    """PostgreSQL refuses one that doesn't, and with it all that is stored in the same transaction."""
    unnamed = []
    texts = [each for table in metadata.tables.values() for each in table.columns if isinstance(each.type, sa.String)]
    for column in (each for each in texts if each.type.length is not None):
        names = {column.name, f"{column.table.name}.{column.name}"}
        longest = [LONGEST[name] for name in names & LONGEST.keys()]
        assert all(len(each) <= column.type.length for each in longest), column
        if not longest and not names & (OURS | PRINCIPALS):
            unnamed.append(str(column))
    assert unnamed == []
