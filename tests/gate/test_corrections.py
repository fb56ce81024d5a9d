"""What a correction does to what is enforced, by example, in a time that the test sets; on a real Redis and on the fake."""

from __future__ import annotations

import msgspec
import pytest

from house import credits_limit, policy_of, quota, rate
from spendgate.correction import Correction
from spendgate.corrector import Original, changes_in, correct_arguments
from spendgate.keys import counters_key, customer_tag
from spendgate.limits import PeriodCounter
from spendgate.limits.check import Grant
from spendgate.record import agrees, decode_record
from spendgate.restored import Tally, Told
from spendgate.script import CORRECT
from spendgate.state import burn_order
from spendgate.testing.memory import EPOCH


class Books:
    """Corrections of decisions of `acme`, each from what the last one left."""

    def __init__(self, stage) -> None:
        self.stage, self.made, self.before = stage, 0, {}

    def ask(self, decision, after, *, id_=None, before=None, read_up_to=(EPOCH, 10**9)):
        record = decision.record
        meter, used = next(iter(record.debited.items()))
        before = self.before.get(decision.decision_id, used) if before is None else before
        self.made += 1
        correction = Correction(
            id_ or f"c{self.made}", decision.decision_id, "u", meter, before, after, "ops", "a double count"
        )
        original = Original(record.event, decision.policy, decision.effective_at_us, decision.stream_id)
        arguments = [customer_tag("acme"), "acme", *correct_arguments(original, correction, read_up_to)]
        return self.stage.transport.run(CORRECT, counters_key("acme"), arguments)

    def correct(self, decision, after):
        """What it did to each limit: used before and after."""
        status, _, raw = self.ask(decision, after)
        assert status == b"corrected"
        self.before[decision.decision_id] = after
        record = decode_record(raw)
        assert agrees(record, decision.policy)
        return {change.limit_id: (change.before, change.after) for change in changes_in(record, decision.policy)}


@pytest.fixture
def books(stage):
    return Books(stage)


def line(stage, index=0):
    return stage.snapshot("acme").limits()[index]


def crossed(stage):
    return [name for record in stage.records("acme") for _, name in record.result.crossed]


def test_a_stopped_customer_resumes_at_once(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 100)
    assert stage.snapshot("acme").customer_state == "stopped"
    assert books.correct(decision, 60) == {"tokens-day": (100, 60)}
    assert stage.snapshot("acme").stored_standing.state == "ok"
    assert [record.result.state_after for record in stage.records("acme")] == ["stopped", "stopped", "ok"]
    assert stage.decide("acme", "tokens", 41).outcome == "stop"
    assert stage.decide("acme", "tokens", 40).allowed


def test_thresholds_that_fired_stay_fired_and_a_larger_quantity_crosses_them(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 70)
    books.correct(decision, 90)
    books.correct(decision, 0)
    books.correct(decision, 95)
    assert crossed(stage) == ["80%"]


def test_more_than_the_cap_is_never_denied(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 70)
    assert books.correct(decision, 500) == {"tokens-day": (70, 500)}
    assert stage.snapshot("acme").customer_state == "stopped"
    assert line(stage).used == 500


def test_the_period_before_is_put_right_and_the_open_one_left_alone(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    yesterday = stage.decide("acme", "tokens", 70)
    stage.clock.advance(days=1)
    stage.decide("acme", "tokens", 30)
    assert books.correct(yesterday, 10) == {"tokens-day": (70, 10)}
    assert line(stage).used == 30
    assert books.correct(yesterday, 20) == {"tokens-day": (10, 20)}


def test_of_a_period_kept_no_longer_only_the_books_change(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    long_ago = stage.decide("acme", "tokens", 70)
    for _ in range(2):
        stage.clock.advance(days=1)
        stage.decide("acme", "tokens", 30)
    assert books.correct(long_ago, 10) == {"tokens-day": (None, None)}
    assert line(stage).used == 30
    assert stage.records("acme")[-1].debited == {"tokens": -60}


def test_a_rate_is_of_now_and_stays_as_it_is(stage, books):
    stage.contract("acme", policy_of(rate(units=60, burst=100)))
    decision = stage.decide("acme", "tokens", 90)
    assert books.correct(decision, 0) == {}
    assert line(stage).used == 90
    books.correct(decision, 1000)
    assert line(stage).used == 90


def test_values_are_counted_apart(stage, books):
    stage.contract("acme", policy_of(quota(100, per="agent", max_values=5, thresholds=())))
    first = stage.decide("acme", "tokens", 100, metadata={"agent": "a"})
    stage.decide("acme", "tokens", 50, metadata={"agent": "b"})
    assert books.correct(first, 20) == {"tokens-day": (100, 20)}
    assert stage.decide("acme", "tokens", 80, metadata={"agent": "a"}).allowed
    assert not stage.decide("acme", "tokens", 51, metadata={"agent": "b"}).allowed


def test_only_limits_that_counted_the_original_change(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 70)
    stage.contract("acme", policy_of(quota(200), quota(300, id="since", thresholds=())))
    stage.decide("acme", "tokens", 10)
    assert books.correct(decision, 0) == {"tokens-day": (80, 10)}
    assert (line(stage, 0).used, line(stage, 1).used) == (10, 10)


def test_a_counter_never_falls_below_nothing(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 70)
    assert books.ask(decision, 0, before=90)[0] == b"corrected"
    assert line(stage).used == 0


def test_credits_that_expire_are_given_back_last(stage, books):
    """As if less had been used: what was burnt last comes back first."""
    expires_at_us = stage.clock() + 3600 * 10**6
    grants = burn_order([Grant("promo", 100, expires_at_us)])
    stage.contract("acme", policy_of(credits_limit()), granted_micro_credits=1000, grants=grants)
    decision = stage.decide("acme", "tokens", 15)  # 100 of the grant, 50 of the rest
    assert line(stage).remaining == 950
    assert books.correct(decision, 10) == {"wallet": (150, 100)}
    assert line(stage).remaining == 1000
    assert books.correct(decision, 4) == {"wallet": (100, 40)}
    assert line(stage).remaining == 1060
    stage.clock.advance(hours=2)
    assert line(stage).remaining == 1000, "what the grant got back has expired with it"
    stage.decide("acme", "tokens", 100)
    assert line(stage).remaining == 0


def test_the_same_correction_is_made_once(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 70)
    first, again = (books.ask(decision, 10, id_="one") for _ in range(2))
    assert (first[0], again[0]) == (b"corrected", b"repeated")
    assert first[1:] == again[1:]
    assert line(stage).used == 10


def test_whoever_has_not_read_the_last_correction_is_sent_to_read_again(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 70)
    _, stream_id, _ = books.ask(decision, 10)
    epoch, sequence = map(int, stream_id.split(b"-"))
    records = stage.records("acme")
    for read_up_to in ((epoch, sequence - 1), (epoch - 1, sequence + 1), (0, 0)):
        assert books.ask(decision, 50, read_up_to=read_up_to) == [b"behind", stream_id]
    assert stage.records("acme") == records
    assert books.ask(decision, 50, before=10, read_up_to=(epoch, sequence))[0] == b"corrected"
    assert books.ask(decision, 60, before=50, read_up_to=(epoch + 1, 0))[0] == b"corrected"
    assert line(stage).used == 60


@pytest.mark.parametrize("used_today", [True, False])
def test_what_records_add_up_to_has_a_correction_of_the_period_before(stage, books, used_today):
    policy = policy_of(quota(100))
    stage.contract("acme", policy)
    yesterday = stage.decide("acme", "tokens", 70)
    stage.clock.advance(days=1)
    today = [stage.decide("acme", "tokens", 30)] if used_today else []
    books.correct(yesterday, 10)
    tally = Tally(policy, stage.clock(), 0)
    for record in reversed(stage.records("acme")):
        tally.take(Told("1-1", record, policy))
    fields = {name: PeriodCounter.decode(raw).used for name, raw in tally.result([]).fields.items()}
    assert fields == ({"quota:tokens-day": 30, "<quota:tokens-day": 10} if today else {"quota:tokens-day": 10})


def test_a_record_that_says_something_else_than_it_debited_is_noticed(stage, books):
    stage.contract("acme", policy_of(quota(100)))
    decision = stage.decide("acme", "tokens", 70)
    books.correct(decision, 10)
    record = stage.records("acme")[-1]
    facts = record.reservation
    assert agrees(record, decision.policy)
    for wrong in ((("tokens", -59),), (("tokens", -60), ("gpu", 1)), ()):
        told = msgspec.structs.replace(record, reservation=msgspec.structs.replace(facts, committed=wrong))
        assert not agrees(told, decision.policy)
