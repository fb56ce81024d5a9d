"""Usage that reaches UsageBox late, tried long ago or after its period was closed, or is refused: billed once, or dead with
its cause, and nobody waits for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx
import pytest

from house import House, policy_of, quota
from serving import serve
from spendgate_daemon.relays import usagebox_lookup
from spendgate_daemon.relays.batching import Batching
from spendgate_daemon.relays.store_relay import USAGE_SINK, StoreRelay
from spendgate_daemon.relays.usagebox_usage import TRIES, UsageBoxUsageRelay
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.usagebox import UsageBox, UsageBoxRefused, UsageBoxUnavailable, UsageEvent
from spendgate_daemon.usagebox.values import BatchResult

DAY_SECONDS = 86_400
REMEMBERED = 5


class Clock:
    def __init__(self):
        self.us = time.time_ns() // 1000

    def __call__(self):
        return self.us

    def forward(self, seconds):
        self.us += int(seconds * 1_000_000)


class Line:
    """The way to a UsageBox; `lossy` answers don't come back, `without` these operations it says 404, and to `silent` ones
    nothing."""

    def __init__(self, box):
        self._box, self.lossy, self.without, self.silent, self.asked = box, False, (), (), []

    def __getattr__(self, name):
        async def call(*arguments, **options):
            self.asked.append(name)
            if name in self.without:
                raise UsageBoxRefused("404 no such thing", 404)
            if name in self.silent:
                raise UsageBoxUnavailable("429 not now", 60)
            answer = await getattr(self._box, name)(*arguments, **options)
            if self.lossy:
                raise UsageBoxUnavailable("the answer is lost")
            return answer

        return call


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    for customer in ("acme", "other"):
        made.contract(policy_of(quota(10_000)), customer=customer)
    yield made
    made.close()


@pytest.fixture
def decide(run, control, store, house):
    def decide(*quantities, customer="acme"):
        for quantity in quantities:
            house.decide(quantity, customer=customer)
        relay = StoreRelay(control, store)
        while run(relay.run_once()):
            pass

    return decide


@pytest.fixture(params=["usagedb"])
def box(request, run, tmp_path):
    """A sandbox that soon forgets ids, and the client of it."""
    app = create_sandbox(tmp_path / "book.sqlite", key=None, dialect=request.param, remembered_ids=REMEMBERED)
    with serve(app) as url:
        made = UsageBox(url, None, dialect=request.param)
        made.url = url
        yield made
        run(made.aclose())


@pytest.fixture
def line(box):
    return Line(box)


@pytest.fixture
def relay(store, line, clock):
    return UsageBoxUsageRelay(store, line, "spendgate/test", clock)


def billed(run, box, customer="acme"):
    span = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    return sum(line.quantity for line in run(box.totals(customer, *span, ("meter_id",), source="raw")))


def forget(run, box):
    """Let others' events push ours out of the memory of ids."""
    now_ms = time.time_ns() // 1_000_000
    fields = {"meter_id": "tokens", "quantity": 1, "unit": "token", "timestamp_ms": now_ms, "source": "else"}
    events = [UsageEvent(event_id=f"else-{n}", account_id="nobody", **fields) for n in range(REMEMBERED * 2)]
    assert run(box.send_usage(events)).accepted == len(events)


def deliveries(store):
    return {
        each.item_id: each
        for number in range(1, 80)
        for row in store.usage.by_positions([number])
        for each in store.deliveries.of_item([row.event_id])
    }


def states(store):
    return sorted(each.state for each in deliveries(store).values())


def test_what_was_taken_long_ago_is_not_sent_again(decide, relay, line, box, store, run, clock):
    decide(5, 7)
    line.lossy = True
    assert run(relay.run_once()) == 0
    assert billed(run, box) == 12
    forget(run, box)
    line.lossy = False
    clock.forward(6 * DAY_SECONDS)
    line.asked.clear()
    assert run(relay.run_once()) == 2
    assert line.asked == ["events"]
    assert billed(run, box) == 12
    assert states(store) == ["delivered"] * 2


def test_what_was_tried_long_ago_and_not_taken_is_sent(decide, relay, line, box, store, run, clock):
    decide(5, 7)
    line.without = ("send_usage",)
    assert run(relay.run_once()) == 0
    line.without = ()
    clock.forward(6 * DAY_SECONDS)
    assert run(relay.run_once()) == 2
    assert line.asked.count("events") == 1
    assert billed(run, box) == 12


def test_so_many_events_later_it_is_looked_up_too(decide, relay, line, box, run, clock, monkeypatch):
    monkeypatch.setattr(usagebox_lookup, "OLD_EVENTS", 10)
    decide(5)
    line.lossy = True
    run(relay.run_once())
    forget(run, box)
    line.lossy = False
    decide(*[1] * 10)
    clock.forward(60)
    assert run(relay.run_once()) == 11
    assert "events" in line.asked
    assert billed(run, box) == 15


def test_a_young_attempt_is_sent_again_without_asking(decide, relay, line, box, run, clock):
    decide(5)
    line.lossy = True
    run(relay.run_once())
    line.lossy = False
    clock.forward(4 * DAY_SECONDS)
    assert run(relay.run_once()) == 1
    assert "events" not in line.asked
    assert billed(run, box) == 5, "UsageBox knows it by its id"


def test_what_was_never_tried_is_never_looked_up_however_old(decide, relay, line, run, clock):
    decide(5)
    clock.forward(30 * DAY_SECONDS)
    assert run(relay.run_once()) == 1
    assert "events" not in line.asked


def test_another_event_with_the_same_id_is_a_conflict(decide, relay, line, box, store, run, clock):
    decide(5)
    [row] = store.usage.by_positions([1])
    taken = relay._event(row)
    fields = {name: getattr(taken, name) for name in taken.__struct_fields__}
    run(box.send_usage([UsageEvent(**fields | {"quantity": 999})]))
    forget(run, box)
    line.without = ("send_usage",)
    run(relay.run_once())
    line.without = ()
    clock.forward(6 * DAY_SECONDS)
    assert run(relay.run_once()) == 1
    assert states(store) == ["dead"]
    assert billed(run, box) == 999


def test_where_nobody_can_be_asked_a_person_decides(decide, relay, line, box, store, run, clock):
    decide(5)
    line.lossy = True
    run(relay.run_once())
    line.lossy, line.without = False, ("events",)
    clock.forward(6 * DAY_SECONDS)
    assert run(relay.run_once()) == 1
    [dead] = deliveries(store).values()
    assert (dead.state, "can't say whether it has it" in dead.error) == ("dead", True)
    assert store.dead_letters.retry("usagebox.usage") == 1
    assert run(relay.run_once()) == 1
    assert states(store) == ["delivered"]


def test_many_customers_are_looked_up_by_turns(decide, relay, line, box, store, run, clock, monkeypatch):
    monkeypatch.setattr(usagebox_lookup, "REQUESTS_MAX", 1)
    decide(5)
    decide(7, customer="other")
    line.lossy = True
    run(relay.run_once())
    forget(run, box)
    line.lossy = False
    clock.forward(6 * DAY_SECONDS)
    assert run(relay.run_once()) == 1
    assert run(relay.run_once()) == 1
    assert (billed(run, box), billed(run, box, "other")) == (5, 7)


def close(box, customer="acme", action="close"):
    month = datetime.now(UTC).strftime("%Y-%m")
    response = httpx.post(f"{box.url}/v1/accounts/{customer}/periods/{month}/{action}")
    assert response.status_code == 200
    return month


def test_a_closed_period_gets_a_correction(decide, relay, box, store, run):
    decide(5)
    assert run(relay.run_once()) == 1
    month = close(box)
    decide(7, 9)
    decide(1, customer="other")
    assert run(relay.run_once()) == 3
    assert (billed(run, box), billed(run, box, "other")) == (21, 1)
    period = run(box.period("acme", month))
    assert (period.frozen.quantity, period.quantity) == (5, 21)
    told = deliveries(store)
    assert {each.state for each in told.values()} == {"delivered"}
    corrected = {item_id: each.correction_id for item_id, each in told.items() if each.correction_id}
    assert corrected == {item_id: f"{item_id}:correction" for item_id in list(told)[1:3]}
    span = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    sent = [event for event in run(box.events("acme", *span)) if event.kind == "Correction"]
    assert {event.correction_ref.original_event_id for event in sent} == set(corrected)
    assert all(month in event.correction_ref.reason for event in sent)


def test_a_correction_whose_answer_was_lost_is_there_once(decide, relay, line, box, store, run, clock):
    close(box)
    decide(7)
    real = line._box.send_usage

    async def loses_corrections(events):
        answer = await real(events)
        if events[0].kind == "Correction":
            raise UsageBoxUnavailable("the answer is lost")
        return answer

    box.send_usage = loses_corrections
    assert run(relay.run_once()) == 0
    assert states(store) == ["attempted"]
    assert billed(run, box) == 7
    del box.send_usage
    forget(run, box)
    clock.forward(6 * DAY_SECONDS)
    assert run(relay.run_once()) == 1
    [told] = deliveries(store).values()
    assert (told.state, told.correction_id) == ("delivered", f"{told.item_id}:correction")
    assert billed(run, box) == 7


@pytest.mark.parametrize("box", ["hosted"], indirect=True)
def test_where_there_are_no_corrections_a_person_decides(decide, relay, box, store, run):
    close(box)
    decide(7)
    assert run(relay.run_once()) == 1
    [dead] = deliveries(store).values()
    assert dead.state == "dead"
    assert dead.error.startswith("its period is closed, and ")
    close(box, action="reopen")
    assert store.dead_letters.retry("usagebox.usage") == 1
    assert run(relay.run_once()) == 1
    assert billed(run, box) == 7


def test_a_rejection_for_another_reason_is_no_correction(decide, relay, line, store, run, clock):
    decide(7)

    async def rejects(events):
        from spendgate_daemon.usagebox import BatchResult

        return BatchResult(0, 0, 0, len(events))

    line.send_usage = rejects
    for _ in range(TRIES):
        run(relay.run_once())
        clock.forward(120)
    [dead] = deliveries(store).values()
    assert (dead.state, dead.correction_id) == ("dead", None)


def test_a_batch_leaves_when_it_is_full_or_its_oldest_has_waited(decide, line, store, run, clock):
    relay = UsageBoxUsageRelay(store, line, "spendgate/test", clock, Batching(3, 60))
    decide(1, 2)
    clock.us = time.time_ns() // 1000
    assert run(relay.run_once()) == 0
    assert line.asked == []
    decide(3)
    assert run(relay.run_once()) == 3
    decide(4)
    clock.us = time.time_ns() // 1000
    assert run(relay.run_once()) == 0
    clock.forward(61)
    assert run(relay.run_once()) == 1


def test_what_usagebox_has_of_a_month_that_was_closed_meanwhile_is_not_corrected(decide, relay, line, box, run, clock):
    """The answer got lost, and a closed month refuses what it has, too."""
    decide(5, 7)
    line.lossy = True
    assert run(relay.run_once()) == 0
    line.lossy = False
    close(box)
    clock.forward(5)
    assert run(relay.run_once()) == 2
    assert billed(run, box) == 12


def test_a_dead_letter_that_is_tried_again_is_looked_up(decide, relay, line, box, store, run, clock):
    decide(5, 7)
    line.lossy = True
    run(relay.run_once())
    forget(run, box)
    line.lossy, line.without = False, ("events",)
    clock.forward(6 * DAY_SECONDS)
    run(relay.run_once())
    assert states(store) == ["dead"] * 2
    line.without = ()
    assert store.dead_letters.retry(USAGE_SINK) == 2
    run(relay.run_once())
    assert states(store) == ["delivered"] * 2
    assert billed(run, box) == 12


def test_nobody_dies_because_a_question_got_no_answer(decide, relay, line, box, store, run, clock):
    """Whether the month is closed, that is."""
    decide(5, 7)
    close(box)
    line.silent = ("period",)
    for _ in range(TRIES + 2):
        run(relay.run_once())
        clock.forward(61)
    assert states(store) == ["attempted"] * 2
    line.silent = ()
    run(relay.run_once())
    assert billed(run, box) == 12


class Picky:
    """A UsageBox that knows no account but these."""

    def __init__(self, *accounts):
        self.accounts, self.taken = accounts, []

    async def send_usage(self, events):
        if any(event.account_id not in self.accounts for event in events):
            raise UsageBoxRefused("422 unknown account", 422)
        self.taken += events
        return BatchResult(accepted=len(events), duplicates=0, conflicts=0, rejected=0)

    async def period(self, *_):
        raise UsageBoxRefused("404 no such period", 404)


def test_a_whole_batch_that_is_refused_holds_up_nobody_else(decide, store, run, clock):
    decide(*[1] * 60)
    decide(1, 2, 3, customer="other")
    box = Picky("other")
    relay = UsageBoxUsageRelay(store, box, "spendgate/test", clock, Batching(50, 0))
    for _ in range(20):
        run(relay.run_once())
        clock.forward(61)
    assert sorted(event.quantity for event in box.taken) == [1, 2, 3]
    decide(4, customer="other")
    for _ in range(3):
        run(relay.run_once())
        clock.forward(61)
    assert box.taken[-1].quantity == 4


def test_the_refused_wait_while_the_others_pass(decide, store, run, clock):
    """One of the others shows that they are taken; the rest of them are the next batch."""
    decide(*[1] * 60)
    decide(1, 2, 3, customer="other")
    box = Picky("other")
    relay = UsageBoxUsageRelay(store, box, "spendgate/test", clock, Batching(50, 0))
    run(relay.run_once())
    assert [event.quantity for event in box.taken] == [1]
    run(relay.run_once())
    assert sorted(event.quantity for event in box.taken) == [1, 2, 3]


def test_what_shows_whether_others_are_taken_was_never_tried(decide, store, run, clock):
    """What was tried may have to be looked up first."""
    decide(*[1] * 60)
    decide(7, 8, customer="other")
    [tried, _] = store.deliveries.waiting(USAGE_SINK, 100)[60:]
    store.deliveries.mark(USAGE_SINK, [tried.position], "attempted", attempted_at_us=1)
    box = Picky("other")
    run(UsageBoxUsageRelay(store, box, "spendgate/test", clock, Batching(50, 0)).run_once())
    assert [event.quantity for event in box.taken] == [8]


def test_while_nobody_is_taken_nobody_dies(decide, store, run, clock):
    """The fault is not an event's then."""
    decide(*[1] * 60)
    decide(1, customer="other")
    relay = UsageBoxUsageRelay(store, Picky(), "spendgate/test", clock, Batching(50, 0))
    for _ in range(5 * TRIES):
        run(relay.run_once())
        clock.forward(61)
    assert "dead" not in states(store)
