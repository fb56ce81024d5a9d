"""What limits and reservations mean, by example, in a time that the test sets; on a real Redis and on the fake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from house import credits_limit, policy_of, quota, rate
from spendgate import Denied, InvalidEvent
from spendgate.errors import ReservationFinished
from spendgate.event import usage_event
from spendgate.keys import partition_of, tag_of
from spendgate.limits import Concurrency
from spendgate.limits.check import Grant
from spendgate.policy import ReservationTerms
from spendgate.state import burn_order
from spendgate.testing import FakeSyncGate
from spendgate_daemon.documents import compile_policy, load_document


def reserve(stage, quantity=100, **fields):
    event = usage_event("acme", "tokens", quantity, **fields)
    decision = stage.submit(event, mode="reserve")
    assert decision.allowed, decision
    return decision.reservation_id


def crossed(stage):
    return [name for record in stage.records("acme") for _, name in record.result.crossed]


def line(stage, index=0):
    return stage.snapshot("acme").limits()[index]


# Thresholds ----------------------------------------------------------------------------------------------------------


def test_a_threshold_fires_once_per_period(stage):
    stage.contract("acme", policy_of(quota(100)))
    for _ in range(10):
        stage.decide("acme", "tokens", 10)
    assert crossed(stage) == ["80%"]
    stage.clock.advance(days=1)
    stage.decide("acme", "tokens", 90)
    assert crossed(stage) == ["80%", "80%"]


def test_a_threshold_speaks_of_use_not_of_what_is_reserved_and_released(stage):
    stage.contract("acme", policy_of(quota(100)))
    held = reserve(stage, 90)
    assert crossed(stage) == []
    stage.release(held)
    assert crossed(stage) == []
    stage.commit(reserve(stage, 90), 85)
    stage.decide("acme", "tokens", 1)
    assert crossed(stage) == ["80%"]


def test_a_threshold_does_not_fire_again_when_the_clock_is_put_back(stage):
    stage.clock.now = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)
    stage.contract("acme", policy_of(quota(100)))
    stage.decide("acme", "tokens", 80)
    stage.clock.advance(hours=1)
    stage.decide("acme", "tokens", 80)
    stage.clock.advance(hours=-1)
    stage.decide("acme", "tokens", 10)
    stage.clock.advance(hours=1)
    stage.decide("acme", "tokens", 10)
    assert crossed(stage) == ["80%", "80%"]
    assert line(stage).used == 90


# Calendars -----------------------------------------------------------------------------------------------------------

BERLIN = """version: 1
meters: {tokens: {unit: token}}
timezone: Europe/Berlin
plans:
  pro:
    limits:
      - {kind: quota, id: day, meter: tokens, cap: 10, period: day}
      - {kind: quota, id: month, meter: tokens, cap: 25, period: month}
"""


@pytest.mark.parametrize(
    ("midnight", "hours"),
    [
        (datetime(2026, 3, 28, 23, tzinfo=UTC), 23),
        (datetime(2026, 10, 24, 22, tzinfo=UTC), 25),
    ],
    ids=["clocks go forward", "clocks go back"],
)
def test_a_day_on_which_clocks_change_is_an_hour_shorter_or_longer(stage, midnight, hours):
    """Days are those of the zone; the month's limit holds at the same time."""
    policy = compile_policy(load_document(BERLIN), "pro", {}, now=midnight)
    stage.clock.now = midnight
    stage.contract("acme", policy)
    assert stage.decide("acme", "tokens", 10).allowed
    stage.clock.now = midnight + timedelta(hours=hours) - timedelta(microseconds=1)
    denied = stage.decide("acme", "tokens", 1)
    assert (denied.outcome, denied.limit_id) == ("stop", "day")
    resets = denied.limits[0].period_end_seconds
    assert datetime.fromtimestamp(resets, UTC) == midnight + timedelta(hours=hours)
    stage.clock.now = midnight + timedelta(hours=hours)
    assert stage.decide("acme", "tokens", 10).allowed
    stage.clock.now += timedelta(hours=24)
    assert stage.decide("acme", "tokens", 6).limit_id == "month"
    assert stage.decide("acme", "tokens", 5).allowed


# Credits -------------------------------------------------------------------------------------------------------------


def test_grants_are_burnt_the_soonest_to_expire_first_and_what_is_left_of_one_is_gone(stage):
    now_us, hour_us = stage.clock(), 3_600_000_000
    grants = burn_order([Grant("late", 1000, now_us + 9 * hour_us), Grant("soon", 300, now_us + hour_us)])
    stage.contract("acme", policy_of(credits_limit()), granted_micro_credits=500, grants=grants)
    stage.decide("acme", "tokens", 20)
    assert line(stage).remaining == 1600
    stage.clock.advance(hours=1)
    assert line(stage).remaining == 1500, "100 of the sooner were left and are gone"
    stage.decide("acme", "tokens", 110)
    assert line(stage).remaining == 400, "1000 of the later and 100 of what is for good"
    stage.clock.advance(hours=8)
    assert line(stage).remaining == 400
    assert not stage.decide("acme", "tokens", 41).allowed
    assert stage.decide("acme", "tokens", 40).customer_state == "stopped"


def test_a_grant_that_arrives_after_an_overdraft_pays_for_that_too(stage):
    stage.contract("acme", policy_of(credits_limit()), granted_micro_credits=100)
    stage.record("acme", "tokens", 20)
    assert line(stage).remaining == -100
    grants = (Grant("late", 300, stage.clock() + 3_600_000_000),)
    stage.contract("acme", policy_of(credits_limit()), granted_micro_credits=100, grants=grants)
    assert line(stage).remaining == 200
    stage.decide("acme", "tokens", 1)
    stage.clock.advance(hours=1)
    assert line(stage).remaining == 0, "the grant covered the overdraft and the debit; what was left of it is gone"


# A mirror that is too old ----------------------------------------------------------------------------------------------


def mirror(stage):
    """Policy state was compared with its source just now."""
    if isinstance(stage, FakeSyncGate):
        stage.redis.mirrored_at_us = stage.clock()
    else:
        stage.client.hset(f"{tag_of(partition_of('acme'))}meta", "mirrored_at_us", stage.clock())


def test_behind_a_mirror_that_is_too_old_each_limit_lets_its_allowance_pass(stage):
    allowing = (quota(1000, outage_allowance=15), credits_limit(outage_allowance=160))
    stage.contract("acme", policy_of(*allowing, max_staleness_us=60_000_000), granted_micro_credits=10_000)
    mirror(stage)
    stage.clock.advance(seconds=60)
    fresh = stage.decide("acme", "tokens", 100)
    assert (fresh.allowed, fresh.overshoot_bound) == (True, {}), "as old as it may be"
    stage.clock.advance(microseconds=1)
    passed = stage.decide("acme", "tokens", 15)
    assert (passed.allowed, passed.degraded) == (True, False)
    assert passed.answer()["overshoot_bound"] == {"tokens-day": 15, "wallet": 160}
    denied = stage.decide("acme", "tokens", 1)
    assert denied.overshoot_bound == {"tokens-day": 15, "wallet": 160}
    assert (denied.outcome, denied.reason, denied.limit_id) == ("throttle", "mirror_stale", "tokens-day")
    mirror(stage)
    assert stage.decide("acme", "tokens", 100).allowed
    stage.clock.advance(seconds=61)
    assert stage.decide("acme", "tokens", 15).allowed, "another mirror, another allowance"
    only_credits = policy_of(credits_limit(outage_allowance=160), max_staleness_us=60_000_000)
    stage.contract("acme", only_credits, granted_micro_credits=10_000)
    assert stage.decide("acme", "tokens", 1).allowed
    assert stage.decide("acme", "tokens", 1).reason == "mirror_stale"


def test_no_more_than_the_bound_passes_beyond_a_limit_that_the_mirror_knows_too_late(stage):
    """All that is used elsewhere is hidden: what passes here is what the answers said, to the unit."""
    limits = (quota(1000, outage_allowance=15), quota(1000, id="of", outage_allowance=7, per="agent", max_values=9))
    stage.contract("acme", policy_of(*limits, max_staleness_us=60_000_000))
    mirror(stage)
    stage.clock.advance(seconds=61)
    asked = [stage.decide("acme", "tokens", 1, metadata={"agent": number % 2}) for number in range(40)]
    assert sum(each.allowed for each in asked) == 14
    assert {tuple(each.overshoot_bound.items()) for each in asked} == {(("tokens-day", 15), ("of", 7))}
    unbounded = policy_of(quota(1000, hard_cap=None, outage_allowance=15), max_staleness_us=60_000_000)
    stage.contract("acme", unbounded)
    assert stage.decide("acme", "tokens", 1).overshoot_bound == {}, "there is no limit to go beyond"


# Floors --------------------------------------------------------------------------------------------------------------


def test_a_limit_with_no_more_than_its_floor_left_stops_the_customer_and_the_rest_may_be_used(stage):
    stage.contract("acme", policy_of(quota(100, floor=5), credits_limit(floor=50)), granted_micro_credits=1100)
    assert stage.decide("acme", "tokens", 94).customer_state == "ok"
    assert stage.decide("acme", "tokens", 1).customer_state == "stopped"
    last = stage.decide("acme", "tokens", 5)
    assert (last.outcome, last.customer_state) == ("allow", "stopped")
    stage.clock.advance(days=1)
    assert stage.snapshot("acme").customer_state == "ok", "another day; 100 micro-credits are left"
    assert stage.decide("acme", "tokens", 4).customer_state == "ok"
    assert stage.decide("acme", "tokens", 1).customer_state == "stopped"


# Shadow --------------------------------------------------------------------------------------------------------------


def test_a_shadow_limit_counts_and_says_what_it_would_have_done(stage):
    stage.contract("acme", policy_of(quota(10, mode="shadow"), quota(100, id="real", thresholds=())))
    decision = stage.decide("acme", "tokens", 60)
    assert (decision.outcome, decision.limits[0].result, decision.customer_state) == ("allow", "deny", "ok")
    assert stage.decide("acme", "tokens", 41).limit_id == "real"
    assert line(stage).used == 60


# Reservations --------------------------------------------------------------------------------------------------------


def test_a_reservation_is_honoured_after_a_downgrade(stage):
    stage.contract("acme", policy_of(quota(1000)))
    held = reserve(stage, 800)
    stage.contract("acme", policy_of(quota(100)))
    assert not stage.decide("acme", "tokens", 1).allowed
    assert stage.commit(held, 700).committed == {"tokens": 700}
    assert (line(stage).used, line(stage).reserved, line(stage).remaining) == (700, 0, 0)


def test_a_commit_in_the_grace_counts_and_one_after_it_does_not(stage):
    terms = ReservationTerms(lifetime_us=60_000_000, grace_us=30_000_000)
    stage.contract("acme", policy_of(quota(1000), reservations=terms))
    in_grace, too_late = reserve(stage, 100, event_id="one"), reserve(stage, 100, event_id="two")
    stage.clock.advance(seconds=90, microseconds=-1)
    assert stage.commit(in_grace, 80).status == "committed"
    stage.clock.advance(microseconds=1)
    with pytest.raises(ReservationFinished) as caught:
        stage.commit(too_late, 80)
    assert caught.value.ended == "expired"
    assert (line(stage).used, line(stage).reserved) == (80, 0)


def test_what_is_committed_late_counts_in_the_period_that_it_was_reserved_in(stage):
    stage.clock.now = datetime(2026, 3, 2, 23, 59, tzinfo=UTC)
    stage.contract("acme", policy_of(quota(100)))
    held = reserve(stage, 60)
    stage.clock.advance(minutes=2)
    assert stage.decide("acme", "tokens", 100).allowed
    stage.commit(held, 50)
    assert line(stage).used == 100
    stage.clock.advance(minutes=-2)
    assert (line(stage).used, line(stage).reserved) == (50, 0)


def test_an_extension_moves_the_deadline_up_to_the_plans_longest_lifetime(stage):
    terms = ReservationTerms(lifetime_us=60_000_000, max_lifetime_us=600_000_000, grace_us=0)
    stage.contract("acme", policy_of(quota(1000), reservations=terms))
    held = reserve(stage, 100)
    began_us = stage.clock()
    stage.clock.advance(seconds=59)
    assert stage.extend(held, 541).deadline_us == began_us + 600_000_000
    with pytest.raises(InvalidEvent, match="seconds"):
        stage.extend(held, 542)
    assert stage.extend(held, 1).deadline_us == began_us + 600_000_000, "a deadline never comes closer"
    stage.clock.advance(seconds=540)
    assert stage.extend(held, 1).status == "open"
    stage.clock.advance(seconds=1)
    with pytest.raises(ReservationFinished):
        stage.extend(held, 1)


def test_a_lifetime_beyond_the_plans_is_refused(stage):
    stage.contract("acme", policy_of(quota(1000)))
    with pytest.raises(InvalidEvent, match="lifetime_seconds"):
        stage.submit(usage_event("acme", "tokens", 1), mode="reserve", lifetime_seconds=3601)


# Values --------------------------------------------------------------------------------------------------------------


def test_a_flood_of_values_is_bounded_and_swept_when_its_period_is_over(stage):
    stage.contract("acme", policy_of(quota(10, per="agent", max_values=3)))
    outcomes = [stage.decide("acme", "tokens", 1, metadata={"agent": f"a{n}"}).reason for n in range(50)]
    assert outcomes == ["allowed"] * 3 + ["too_many_values"] * 47
    assert stage.decide("acme", "tokens", 9, metadata={"agent": "a0"}).allowed
    assert stage.decide("acme", "tokens", 1, metadata={"agent": "a0"}).reason == "quota_exceeded"
    stage.clock.advance(days=1)
    assert stage.decide("acme", "tokens", 1, metadata={"agent": "a49"}).allowed
    if isinstance(stage, FakeSyncGate):
        return
    assert len(stage.client.keys("*per:quota*")) == 2
    stage.clock.advance(days=2)
    stage.sweep()
    assert len(stage.client.keys("*per:quota*")) == 1


def test_a_limit_on_open_runs_per_value_has_no_say_in_what_reserves_nothing(stage):
    """Not even when it holds as many values as it may."""
    stage.contract("acme", policy_of(Concurrency("open", ("tokens",), 1, per="agent", max_values=1)))
    held = reserve(stage, 1, metadata={"agent": "a"})
    assert stage.decide("acme", "tokens", 1, metadata={"agent": "b"}).allowed
    with pytest.raises(Denied), stage.reserve("acme", "tokens", 1, metadata={"agent": "b"}):
        pass
    stage.release(held)
    reserve(stage, 1, metadata={"agent": "b"})


# Rates ---------------------------------------------------------------------------------------------------------------


def test_a_debt_from_a_larger_burst_melts_in_the_time_of_the_smaller_one(stage):
    stage.contract("acme", policy_of(rate(units=60, burst=600)))
    stage.decide("acme", "tokens", 600)
    stage.contract("acme", policy_of(rate(units=60, burst=10)))
    assert stage.decide("acme", "tokens", 1).reason == "rate_exceeded"
    stage.clock.advance(hours=1)
    assert stage.decide("acme", "tokens", 10).allowed


# Repeated events -----------------------------------------------------------------------------------------------------


def test_a_duplicate_after_a_change_of_policy_has_the_answer_that_was_given(stage):
    stage.contract("acme", policy_of(quota(100)))
    first = stage.decide("acme", "tokens", 90, event_id="one")
    stage.contract("acme", policy_of(quota(10)), status="suspended")
    again = stage.decide("acme", "tokens", 90, event_id="one")
    assert again.allowed
    assert again.duplicate
    assert (again.decision_id, again.effective_at_us) == (first.decision_id, first.effective_at_us)
    assert stage.decide("acme", "tokens", 1, event_id="two").reason == "customer_suspended"
    assert line(stage).used == 90
