"""Redis, store and UsageBox: the same number, or the difference by its cause, each made to happen on a real one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from mirror_world import World, now_us
from serving import serve
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.limits import PeriodCounter
from spendgate_daemon.books.line import Billed, Difference, Enforced, Line
from spendgate_daemon.books.read import Reader
from spendgate_daemon.books.reconcile import Reconcile
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, USAGE_SINK, StoreRelay
from spendgate_daemon.relays.usagebox_usage import UsageBoxUsageRelay
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.store.books import Period, Waiting
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.usagebox import UsageBoxUnavailable, UsageEvent

OWN = "spendgate/test"
PERIOD = Period("acme", ("tokens",), "token", 0, 2_592_000, "month")


class Sandbox:
    """Its clock can be moved, and its file be written to behind its back."""

    def __init__(self, path):
        self.path, self.offset_ms = path, 0

    def now_ms(self):
        return time.time_ns() // 1_000_000 + self.offset_ms

    def execute(self, statement, *values):
        with sqlite3.connect(self.path, timeout=10) as book:
            book.execute(statement, values)
        book.close()


class Site(World):
    """A customer with a monthly quota, relays to the store and to UsageBox, and the books of all three."""

    def __init__(self, run, control, gate, store, url, sandbox):
        super().__init__(run, control, gate, store, url)
        self.sandbox = sandbox
        self.relay = StoreRelay(control, store)
        self.usage = UsageBoxUsageRelay(store, self.usagebox, OWN, now_us)
        reader = Reader(gate, control, store, self.usagebox, OWN, now_us)
        self.reconcile = Reconcile(reader, control, store, self.usagebox, now_us)
        self.put(plan="basic", caps={"tokens": 1_000_000})
        run(self.poll.poll_once())

    def to_store(self):
        while self.run(self.relay.run_once()):
            pass

    def to_usagebox(self):
        self.to_store()
        while self.run(self.usage.run_once()):
            pass

    def look(self, *, dry_run=True):
        return self.run(self.reconcile.customer("acme", dry_run=dry_run))

    def miscount(self, used):
        """Let the counter say something else; what it was."""
        key, field = counters_key("acme"), "quota:month"
        counter = PeriodCounter.decode(self.run(self.control.redis.hget(key, field)))
        wrong = PeriodCounter(counter.period_start_seconds, used, fired=counter.fired)
        self.run(self.control.redis.hset(key, field, wrong.encode()))
        return counter

    def differences(self):
        (line,) = self.look().lines
        return line.differences()


@pytest.fixture
def site(run, control, gate, store, tmp_path):
    sandbox = Sandbox(tmp_path / "book.sqlite")
    with serve(create_sandbox(sandbox.path, key=None, now_ms=sandbox.now_ms)) as url:
        made = Site(run, control, gate, store, url, sandbox)
        yield made
        made.person.close()
        run(made.usagebox.aclose())


def between_stores(cause, quantity):
    return [Difference("enforced/recorded", cause, quantity)]


def with_usagebox(cause, quantity):
    return [Difference("recorded/billed", cause, quantity)]


def test_three_equal_books_have_no_difference(site):
    for quantity in (100, 200, 300):
        site.decide(quantity)
    site.to_usagebox()
    (line,) = site.look().lines
    assert (line.enforced.used, line.recorded, line.billed.own) == (600, 600, 600)
    assert line.differences() == []


def test_what_is_on_its_way_to_the_store_is_in_flight(site):
    site.decide(100)
    site.to_usagebox()
    site.decide(30)
    assert site.differences() == between_stores("in_flight", 30)


def test_what_is_on_its_way_to_usagebox_is_in_flight(site):
    site.decide(100)
    site.to_usagebox()
    site.decide(30)
    site.to_store()
    late = (now_us() - 60_000_000) // 3_600_000_000 * 3_600_000_000 > site.store.decisions.page(limit=1).items[0].at_us
    assert site.differences() == with_usagebox("late" if late else "in_flight", 30)


def test_what_comes_after_its_hour_is_late(site):
    site.decide(100)
    site.to_store()
    site.reconcile._reader._now_us = lambda: now_us() + 2 * 3_600_000_000
    assert site.differences() == with_usagebox("late", 100)


def test_what_usagebox_refuses_is_dead_lettered(site):
    site.decide(100)
    site.to_usagebox()
    site.decide(7)
    site.to_store()
    position = site.store.deliveries.due(USAGE_SINK, now_us(), 10)[0].position
    site.store.deliveries.mark(USAGE_SINK, [position], "dead", error="refused")
    assert site.differences() == with_usagebox("dead_lettered", 7)


def test_what_others_recorded_is_external(site):
    site.decide(100)
    site.to_usagebox()
    site.used_elsewhere(40)
    assert site.differences() == with_usagebox("external", -40)


def test_what_is_missing_in_hourly_sums_is_rolled_up_too_early(site):
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    if hour == hour.replace(day=1, hour=0):
        pytest.skip("the first hour of a month has none before it")
    site.decide(100)
    site.to_store()
    before = int((hour - timedelta(minutes=30)).timestamp() * 1_000_000)
    with site.store.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE usage_events SET at_us = {before}")
    site.to_usagebox()
    assert site.differences() == with_usagebox("rolled_up_too_early", 100)


def test_what_was_used_under_a_plan_without_the_limit_is_not_counted(site):
    site.put(plan="prepaid", credits_granted_total=10_000)
    site.run(site.poll.poll_once())
    site.decide(60)
    site.put(plan="basic")
    site.run(site.poll.poll_once())
    site.decide(100)
    site.to_usagebox()
    assert site.differences() == between_stores("not_counted", -60)


def test_a_counter_that_the_records_contradict_is_put_right_and_told(site):
    site.decide(100)
    site.to_usagebox()
    counter = site.miscount(175)
    assert site.differences() == between_stores("drift", 75)
    assert site.look().unexplained is False, "it would be put right"
    assert site.differences() == between_stores("drift", 75), "a dry run changes nothing"

    done = site.look(dry_run=False)
    assert [repair.message for repair in done.repairs] == ["month: 75 tokens too much counted"]
    site.to_usagebox()
    assert site.differences() == []
    (event,) = [each for each in site.store.guardrail_events.page(limit=9).items if each.kind == "repair"]
    assert event.message == "month: 175 tokens counted as used where the records have 100 tokens; put right"
    assert site.snapshot().counters["quota:month"].fired == counter.fired


def test_confirmed_usage_that_usagebox_has_no_more_is_sent_again(site):
    for quantity in (100, 20, 3):
        site.decide(quantity)
    site.to_usagebox()
    site.sandbox.execute("DELETE FROM ingested WHERE quantity = 20")
    assert site.differences() == with_usagebox("drift", 20)
    assert site.look(dry_run=False).unexplained is False
    site.to_usagebox()
    assert site.differences() == []
    (event,) = [each for each in site.store.guardrail_events.page(limit=9).items if each.kind == "repair"]
    assert event.message == "1 confirmed event was missing in UsageBox; sent again"
    (sink,) = [each for each in site.store.deliveries.sinks() if each.sink == USAGE_SINK]
    assert sink.delivered == 3


def test_what_usagebox_has_as_a_correction_is_not_sent_again(site):
    """Beside an event that it lost, in a month that was closed for a while."""
    site.decide(100)
    site.to_usagebox()
    site.decide(7)
    site.to_store()
    (due,) = site.store.deliveries.due(USAGE_SINK, now_us(), 10)
    (row,) = site.store.usage.by_positions([due.position])
    correction = UsageEvent(f"{row.event_id}:correction", "acme", "tokens", 7, "token", row.at_us // 1000, OWN)
    assert site.run(site.usagebox.send_usage([correction])).accepted == 1
    site.store.deliveries.mark(
        USAGE_SINK, [row.position], "delivered", correction_suffix=":correction", attempted_at_us=now_us()
    )
    assert site.differences() == []
    site.sandbox.execute("DELETE FROM ingested WHERE quantity = 100")
    (repair,) = site.look(dry_run=False).repairs
    assert "1 confirmed event was" in repair.message
    site.to_usagebox()
    (line,) = site.look().lines
    assert line.billed.raw == 107


def test_a_lost_correction_that_was_sent_again_as_usage_is_not_missed_again(site):
    site.decide(7)
    site.to_store()
    (due,) = site.store.deliveries.due(USAGE_SINK, now_us(), 10)
    site.store.deliveries.mark(
        USAGE_SINK, [due.position], "delivered", correction_suffix=":correction", attempted_at_us=now_us()
    )
    assert len(site.look(dry_run=False).repairs) == 1
    site.to_usagebox()
    site.decide(100)
    site.to_usagebox()
    site.sandbox.execute("DELETE FROM ingested WHERE quantity = 100")
    (repair,) = site.look(dry_run=False).repairs
    assert "1 confirmed event was" in repair.message


def test_only_what_is_confirmed_still_is_sent_again(site):
    """It may have got another state since it was looked for."""
    site.decide(7)
    site.to_store()
    (due,) = site.store.deliveries.due(USAGE_SINK, now_us(), 10)
    site.store.deliveries.mark(USAGE_SINK, [due.position], "dead", error="refused")
    event = GuardrailEvent(id="again", customer_id="acme", kind="repair", at_us=1, message="sent again")
    assert site.store.books.send_again([due.position], event) == 0
    assert site.store.dead_letters.get(USAGE_SINK, due.position).state == "dead"


def test_usage_that_nobody_recorded_here_under_our_name_is_drift_and_stays(site):
    site.decide(100)
    site.to_usagebox()
    site.used_elsewhere(5, source=OWN)
    assert site.differences() == with_usagebox("drift", -5)
    assert site.look(dry_run=False).unexplained is True


def test_a_meter_that_no_limit_counts_is_compared_with_usagebox_alone(site):
    site.run(site.gate.decide("acme", "runs", 3))
    site.to_usagebox()
    lines = {line.period.meters: line for line in site.look().lines}
    assert lines[("runs",)].enforced is None
    assert lines[("runs",)].recorded == lines[("runs",)].billed.own == 3


def test_every_customer_has_its_turn_and_its_lines_are_kept(site):
    for number in range(3):
        site.put(f"customer-{number}", plan="basic", caps={"tokens": 100})
    site.run(site.poll.poll_once())
    site.decide(10)
    assert site.run(site.reconcile.run_once()) == 4
    kept = site.store.books.page(limit=2)
    rest = site.store.books.page(limit=2, cursor=kept.next_cursor)
    assert len(kept.items) + len(rest.items) == 4
    assert rest.next_cursor is None
    assert len(site.store.books.page(limit=9, differs=True).items) == 1
    assert site.store.books.counts()["lines"] == 4


def test_those_without_lines_keep_nobody_from_their_turn(site, monkeypatch):
    monkeypatch.setattr("spendgate_daemon.books.reconcile.CUSTOMERS_PER_RUN", 2)
    for number in range(3):
        site.put(f"a-{number}", plan="prepaid", credits_granted_total=5)
    site.run(site.poll.poll_once())
    for _ in range(2):
        assert site.run(site.reconcile.run_once()) == 2
    assert len(site.store.books.page(limit=9, customer_id="acme").items) == 1
    (again, _) = site.store.books.longest_uncompared(2)
    assert again == "a-0"


def test_two_who_repair_at_once_repair_once(site):
    for _ in range(3):
        site.decide(100)
    site.to_usagebox()
    site.miscount(375)

    async def both():
        await asyncio.gather(*(site.reconcile.customer("acme") for _ in range(2)))

    site.run(both())
    assert site.snapshot().counters["quota:month"].used == 300


def test_one_who_cannot_be_compared_holds_up_nobody(site, monkeypatch):
    for number in range(3):
        site.put(f"customer-{number}", plan="basic", caps={"tokens": 100})
    site.run(site.poll.poll_once())
    reader = site.reconcile._reader
    read = reader.read

    async def read_others(customer_id):
        if customer_id == "acme":
            raise UsageBoxUnavailable("500 for this account")
        return await read(customer_id)

    monkeypatch.setattr(reader, "read", read_others)
    site.run(site.reconcile.run_once())
    assert site.store.books.counts()["lines"] == 3
    monkeypatch.undo()
    site.run(site.reconcile.run_once())
    assert site.store.books.page(limit=9, customer_id="acme").items == [], "it is left alone for a while"


def unreadable_record(site):
    """One in the outbox that the store relay can't take either."""
    epoch, sequence = site.store.cursors.get(f"{CURSOR_PREFIX}{partition_of('acme'):03d}").split("-")
    outbox = f"{tag_of(partition_of('acme'))}outbox"
    site.run(site.control.redis.xadd(outbox, {"r": b"\xc1"}, id=f"{epoch}-{int(sequence) + 1}"))


def broken_key(site):
    site.run(site.control.redis.set(counters_key("acme"), "x"))


def policy_gone(site):
    site.run(site.control.redis.delete(*site.run(site.control.redis.keys(f"{tag_of(partition_of('acme'))}policy:*"))))
    site.gate._policies._by_digest.clear()


@pytest.mark.parametrize("broken", [unreadable_record, broken_key, policy_gone])
def test_one_whose_data_are_broken_holds_up_nobody_not_even_after_a_restart(site, monkeypatch, broken):
    monkeypatch.setattr("spendgate_daemon.books.reconcile.CUSTOMERS_PER_RUN", 1)
    site.put("other", plan="basic", caps={"tokens": 10})
    site.run(site.poll.poll_once())
    for customer in ("acme", "other"):
        site.decide(1, customer=customer)
    site.to_usagebox()
    broken(site)
    for compared in (0, 1, 0):
        restarted = Reconcile(site.reconcile._reader, site.control, site.store, site.usagebox, now_us)
        assert site.run(restarted.run_once()) == compared
    assert len(site.store.books.page(limit=9, customer_id="other").items) == 1


def test_last_month_is_still_compared(site):
    site.decide(7)
    site.to_store()
    position = site.store.deliveries.due(USAGE_SINK, now_us(), 10)[0].position
    site.store.deliveries.mark(USAGE_SINK, [position], "dead", error="refused")
    this_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last_month_us = int((this_month - timedelta(days=1)).timestamp() * 1_000_000)
    with site.store.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE usage_events SET at_us = {last_month_us}")
    lines = {line.period.limit_id: line for line in site.look().lines}
    assert lines[None].differences() == with_usagebox("dead_lettered", 7)


def test_a_difference_that_passes_is_no_drift(site):
    class Twice:
        """Readings of which only the first drifts."""

        def __init__(self):
            self.used = [110, 100]

        async def read(self, _customer_id):
            return [Line(PERIOD, Enforced(self.used.pop(0), 0, 100), 100, None, 1)]

    done = site.run(Reconcile(Twice(), site.control, site.store, None, now_us).customer("acme"))
    assert (done.unexplained, done.repairs) == (False, [])
    assert site.store.books.counts()["drift"] == 0


def test_one_repair_does_not_hide_another_drift(site):
    class Both:
        """Readings with a drift on either side."""

        async def read(self, _customer_id):
            book = Waiting(100, 0, 0, 0)
            return [Line(PERIOD, Enforced(110, 0, 100), 100, Billed(105, 105, 0, book, book), 1)]

    reconcile = Reconcile(Both(), site.control, site.store, site.usagebox, now_us)
    done = site.run(reconcile.customer("acme", dry_run=True))
    assert [repair.what for repair in done.repairs] == ["counter"]
    assert done.unexplained


def test_what_others_use_of_a_meter_that_nobody_counts_is_seen(site):
    event = UsageEvent("x9", "acme", "runs", 5, "run", now_us() // 1000, "other", None)
    assert site.run(site.usagebox.send_usage([event])).accepted == 1
    lines = {line.period.meters: line for line in site.look().lines}
    assert lines[("runs",)].differences() == with_usagebox("external", -5)


def test_what_is_stored_while_the_store_is_read_is_counted_once(site):
    site.decide(100)
    site.to_usagebox()
    site.decide(30)
    stored = threading.Event()
    reader, books = site.reconcile._reader, site.store.books
    read = books.recorded

    def recorded(*arguments):
        """The relay stores what is on its way just before."""
        if not stored.is_set():
            stored.set()
            asyncio.run_coroutine_threadsafe(site.relay.run_once(), loop[0]).result(20)
        return read(*arguments)

    loop = []

    async def go():
        loop.append(asyncio.get_running_loop())
        return await reader.read("acme")

    books.recorded = recorded
    (line,) = site.run(go())
    assert stored.is_set()
    assert line.drift("enforced/recorded") == 0
    assert line.enforced.on_its_way == 0


@pytest.mark.parametrize(
    ("billed", "expected"),
    [
        (
            Billed(100, 100, 0, Waiting(0, -100, 0, 0, -100), Waiting(0, -100, 0, 0, -100)),
            with_usagebox("in_flight", -100),
        ),
        (Billed(150, 150, 0, Waiting(100, 0, 0, 0, -50), Waiting(100, 0, 0, 0, -50)), with_usagebox("in_flight", -50)),
        (Billed(10, 10, 0, Waiting(10, 0, 0, 0), Waiting(10, 0, 0, 0)), []),
        (Billed(10, 10, 0, Waiting(10, 0, 0, 0), Waiting(15, 5, 0, 0)), with_usagebox("in_flight", 5)),
        (Billed(13, 13, 0, Waiting(10, 4, 0, 0), Waiting(15, 6, 0, 0)), with_usagebox("in_flight", 2)),
        (Billed(8, 8, 0, Waiting(10, 0, 0, 0), Waiting(10, 0, 0, 0)), with_usagebox("drift", 2)),
        (Billed(12, 12, 0, Waiting(10, 0, 0, 0), Waiting(10, 0, 0, 0)), with_usagebox("drift", -2)),
        (
            Billed(5, 5, 0, Waiting(12, 3, 2, 1), Waiting(12, 3, 2, 1)),
            [
                Difference("recorded/billed", "drift", 1),
                Difference("recorded/billed", "dead_lettered", 1),
                Difference("recorded/billed", "late", 2),
                Difference("recorded/billed", "in_flight", 3),
            ],
        ),
    ],
)
def test_the_causes_add_up_to_the_difference(billed, expected):
    line = Line(PERIOD, None, billed.after.recorded, billed, 0)
    assert line.differences() == expected
    assert sum(each.quantity for each in expected) == billed.after.recorded - billed.raw


def test_a_limit_that_came_later_is_no_drift():
    line = Line(PERIOD, Enforced(used=70, on_its_way=10, recorded=100, not_counted=40), 100, None, 0)
    assert [(each.cause, each.quantity) for each in line.differences()] == [("in_flight", 10), ("not_counted", -40)]
