"""What an application sees of the gate, on a real Redis."""

from __future__ import annotations

import asyncio
import threading

import pytest

from house import credits_limit, per_event, policy_of, quota, rate
from spendgate import Conflict, Gate, GateUnavailable, InvalidEvent, NotPrepared, UnknownMeter
from spendgate.event import usage_event
from spendgate.keys import counters_key
from spendgate.state import Override
from transport_scripts import forget_scripts, has_functions

HOUR_US = 3_600_000_000


def test_a_retry_with_the_same_id_is_debited_once_and_gets_the_same_answer(house):
    house.contract(policy_of(quota()))
    first = house.decide(300, event_id="run-1")
    again = [house.decide(300, event_id="run-1") for _ in range(3)]
    assert first.allowed
    assert not first.duplicate
    for decision in again:
        assert decision.duplicate
        assert decision.decision_id == first.decision_id
        assert decision.effective_at_us == first.effective_at_us
        assert decision.limits[0].remaining == 700
    assert len([r for r in house.records() if r.kind == "decision"]) == 1


def test_the_outcome_is_there_without_the_record_and_the_record_agrees_with_it(house):
    house.contract(policy_of(quota(1000), rate()))
    answers = [
        house.decide(300, event_id="run-1"),
        house.decide(300, event_id="run-1"),
        house.decide(500),
        house.decide(5000),
    ]
    assert [(a.outcome, a.allowed, a.status) for a in answers] == [
        ("allow", True, "decided"),
        ("allow", True, "duplicate"),
        ("throttle", False, "decided"),
        ("stop", False, "decided"),
    ]
    for answer in answers:
        assert "record" not in vars(answer), "decoded although nobody asked for more than the outcome"
        assert answer.record.result.outcome == answer.outcome
        assert answer.record.event == answer.event
    assert answers[0].effective_at_us == answers[0].record.now_us == answers[1].effective_at_us


def test_the_same_id_with_other_content_is_a_conflict_and_does_nothing(house):
    house.contract(policy_of(quota()))
    house.decide(300, event_id="run-1", metadata={"model": "a"})
    for quantity, metadata in ((301, {"model": "a"}), (300, {"model": "b"}), (300, None)):
        with pytest.raises(Conflict):
            house.decide(quantity, event_id="run-1", metadata=metadata)
    assert house.decide(1).limits[0].used == 300


def test_a_tracing_header_is_not_content(house):
    house.contract(policy_of(quota()))
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    house.decide(300, event_id="run-1")
    assert house.decide(300, event_id="run-1", traceparent=traceparent).duplicate


def test_an_event_denied_for_want_of_credits_is_allowed_after_a_grant(house):
    policy = policy_of(credits_limit())
    house.contract(policy, granted_micro_credits=100)
    denied = house.decide(50, event_id="run-1")
    assert (denied.outcome, denied.reason) == ("stop", "credits_exceeded")
    assert denied.unblock.short == 400
    house.contract(policy, version=2, granted_micro_credits=600)
    allowed = house.decide(50, event_id="run-1")
    assert allowed.allowed
    assert not allowed.duplicate
    assert all(house.decide(50, event_id="run-1").duplicate for _ in range(3))
    assert house.run(house.gate.snapshot("acme")).limits()[0].used == 500


def test_a_denied_attempt_consumes_nothing_and_a_too_large_one_changes_no_state(house):
    house.contract(policy_of(quota(1000)))
    house.decide(700)
    denied = house.decide(500)
    assert (denied.outcome, denied.customer_state) == ("stop", "ok")
    assert denied.unblock.short == 200
    last = house.decide(300)
    assert (last.outcome, last.customer_state) == ("allow", "stopped")
    after = [house.decide(1) for _ in range(50)]
    assert {decision.outcome for decision in after} == {"stop"}
    changes = [
        r for r in house.records() if r.result.state_after != r.standing.state and r.result.state_after == "stopped"
    ]
    assert len(changes) == 1


def test_several_meters_are_debited_all_or_none(house):
    runs = quota(10, id="runs-day", meters=("runs",), unit="run")
    house.contract(policy_of(quota(1000), runs))
    denied = house.decide(None, meter=None, quantities={"runs": 1, "tokens": 1001})
    assert denied.outcome == "stop"
    assert [line.result for line in denied.limits] == ["deny", "pass"]
    allowed = house.decide(None, meter=None, quantities={"runs": 10, "tokens": 1000})
    assert allowed.allowed
    assert [line.used for line in allowed.limits] == [0, 0]
    assert [line.remaining for line in allowed.limits] == [0, 0]


def test_two_hundred_callers_with_room_for_a_hundred_get_a_hundred(house):
    house.contract(policy_of(quota(100)))

    async def all_at_once():
        return await asyncio.gather(*(house.gate.decide("acme", "tokens", 1) for _ in range(200)))

    outcomes = [decision.outcome for decision in house.run(all_at_once())]
    assert (outcomes.count("allow"), outcomes.count("stop")) == (100, 100)


def test_threads_share_a_sync_gate(house):
    house.contract(policy_of(quota(100)))
    outcomes = []

    def call():
        outcomes.extend(house.sync.decide("acme", "tokens", 1).outcome for _ in range(25))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("allow"), outcomes.count("stop")) == (100, 100)


def test_a_dry_run_writes_nothing(house):
    house.contract(policy_of(quota(1000)))
    records, counters = house.records(), house.redis.hgetall(counters_key("acme"))
    for quantity in (1000, 1001):
        decision = house.decide(quantity, dry_run=True)
        assert decision.dry_run
        assert decision.decision_id is None
    assert house.records() == records
    assert house.redis.hgetall(counters_key("acme")) == counters


def test_a_shadow_limit_records_and_lets_pass(house):
    house.contract(policy_of(quota(100, mode="shadow")))
    decision = house.decide(101)
    assert decision.allowed
    assert decision.limits[0].result == "deny"
    assert decision.customer_state == "ok"


def test_recorded_usage_is_never_denied_and_may_go_over(house):
    house.contract(policy_of(quota(100)))
    recorded = house.run(house.gate.record("acme", "tokens", 150))
    assert (recorded.outcome, recorded.reason, recorded.customer_state) == ("allow", "recorded", "stopped")
    assert house.decide(1).outcome == "stop"


def test_every_limit_is_in_the_trace_and_stop_beats_throttle(house):
    house.contract(policy_of(rate(burst=10, units=10), quota(100), per_event()))
    house.decide(10)
    denied = house.decide(None, meter=None, quantities={"tokens": 10}, metadata={"context_window": 9000})
    assert (denied.outcome, denied.reason, denied.limit_id) == ("stop", "event_too_large", "context")
    assert [line.result for line in denied.limits] == ["deny", "pass", "deny"]
    throttled = house.decide(10)
    assert (throttled.outcome, throttled.customer_state) == ("throttle", "throttled")
    assert 0 < throttled.retry_after_seconds <= 60


def test_a_model_outside_the_plan_is_stopped_and_changes_no_state(house):
    house.contract(policy_of(quota(), models=("claude-*",)))
    assert house.decide(1, metadata={"model": "claude-opus"}).allowed
    denied = house.decide(1, metadata={"model": "gpt-5"})
    assert (denied.reason, denied.customer_state) == ("model_not_allowed", "ok")


def test_a_suspended_customer_is_stopped_whatever_the_overrides_say(house):
    policy = policy_of(quota())
    house.contract(policy, status="suspended")
    until_us = house.run(house.gate.snapshot("acme")).now_us + HOUR_US
    house.run(house.control.put_overrides("acme", [Override("o1", "let_pass", until_us, 10)], 1))
    denied = house.decide(1)
    assert (denied.reason, denied.customer_state) == ("customer_suspended", "suspended")


def test_an_override_lets_at_most_n_units_pass_and_ends_by_itself(house):
    house.contract(policy_of(quota(10)))
    house.decide(10)
    now_us = house.run(house.gate.snapshot("acme")).now_us
    house.run(house.control.put_overrides("acme", [Override("o1", "let_pass", now_us + HOUR_US, 5)], 1))
    assert house.run(house.gate.snapshot("acme")).customer_state == "ok"
    passed = house.decide(3)
    assert (passed.reason, passed.override_id) == ("allowed_by_override", "o1")
    assert house.decide(3).outcome == "stop"
    assert house.decide(2).customer_state == "stopped"
    house.run(house.control.put_overrides("acme", [Override("o2", "let_pass", now_us + HOUR_US, 5)], 2))
    snapshot = house.run(house.gate.snapshot("acme"))
    assert snapshot.customer_state == "ok"
    assert snapshot.standing_at(now_us + HOUR_US).state == "stopped"


def test_an_older_version_never_overwrites_a_newer_one(house):
    policy = policy_of(quota())
    assert house.contract(policy, version=5)
    assert not house.contract(policy, version=4, status="suspended")
    assert house.decide(1).allowed
    override = [Override("o1", "stop", 9 * 10**15)]
    assert house.run(house.control.put_overrides("acme", override, 7))
    assert not house.run(house.control.put_overrides("acme", [], 7))
    assert house.decide(1).reason == "override_stop"


def test_external_usage_counts_for_its_period_only(house):
    house.contract(policy_of(quota(1000)))
    start = house.run(house.gate.snapshot("acme")).limits()[0].period_start_seconds
    put = house.control.put_external
    assert house.run(put("acme", "tokens-day", start, 600, 10))
    assert not house.run(put("acme", "tokens-day", start, 100, 9)), "an older reading"
    assert not house.run(put("acme", "tokens-day", start - 86_400, 100, 11)), "another period"
    assert house.decide(401).outcome == "stop"
    assert house.decide(400).customer_state == "stopped"


def test_denials_beyond_ten_a_second_become_one_entry_with_a_count(house):
    house.contract(policy_of(quota(10)))
    house.decide(10)

    async def many():
        return await asyncio.gather(*(house.gate.decide("acme", "tokens", 1) for _ in range(300)))

    decisions = house.run(many())
    assert all(decision.decision_id for decision in decisions)
    kept = {decision.decision_id for decision in decisions if decision.status == "decided"}
    coalesced = [decision for decision in decisions if decision.status == "coalesced"]
    assert len(kept) + len(coalesced) == 300
    assert len(coalesced) >= 200
    told = 0
    while told < len(coalesced):
        for partition in range(64):
            house.run(house.control.sweep(partition))
        told = sum(r.result.count for r in house.records() if r.kind == "denials")
    assert told == len(coalesced)


def test_an_unknown_customer_is_hinted_to_the_mirror_and_denied(house):
    denied = house.decide(1, customer="nobody")
    assert (denied.outcome, denied.reason) == ("stop", "unknown_customer")
    hints = house.run(house.control.read_hints(dict.fromkeys(range(64), "0-0")))
    assert [hint[2] for hint in hints] == [b"nobody"]


@pytest.mark.parametrize("quantity", [-1, 0, 1.5, float("nan"), 10**12 + 1, 10**400, True, "0x10", "5", None])
def test_a_bad_quantity_names_the_field_and_writes_nothing(house, quantity):
    house.contract(policy_of(quota()))
    before = house.records()
    with pytest.raises(InvalidEvent, match="whole number from 1 to 1000000000000") as caught:
        house.decide(quantity)
    assert caught.value.field == "quantity"
    assert house.records() == before


def test_an_unknown_meter_is_refused_by_name(house):
    house.contract(policy_of(quota()))
    with pytest.raises(UnknownMeter) as caught:
        house.decide(1, meter="token")
    assert (caught.value.field, caught.value.meter) == ("meter", "token")
    with pytest.raises(UnknownMeter) as caught:
        house.decide(None, meter=None, quantities={"tokens": 1, "x": 2})
    assert caught.value.field == "quantities.x"


def test_a_commit_of_an_unknown_meter_is_refused_by_name_and_the_reservation_stays(house):
    house.contract(policy_of(quota()))
    held = house.run(house.gate.submit(usage_event("acme", "tokens", 5), mode="reserve"))
    with pytest.raises(UnknownMeter) as caught:
        house.run(house.gate.commit(held.reservation_id, quantities={"x": 2}))
    assert (caught.value.field, caught.value.meter) == ("quantities.x", "x")
    assert house.run(house.gate.commit(held.reservation_id, 3)).committed == {"tokens": 3}


def test_ids_with_braces_and_odd_letters_stay_apart(house):
    policy = policy_of(quota(10))
    for customer in ("}", "{p001}", "ünïcode ☃", "a:b", "*"):
        house.contract(policy, customer=customer)
        assert house.decide(10, customer=customer).allowed
        assert house.decide(1, customer=customer).outcome == "stop"


def test_an_empty_redis_is_not_silently_a_new_installation(redis_url, run):
    gate = Gate.from_url(redis_url)
    with pytest.raises(NotPrepared):
        run(gate.decide("acme", "tokens", 1))
    run(gate.aclose())


def test_no_redis_is_an_error_of_its_own(run):
    gate = Gate.from_url("redis://127.0.0.1:1/0", timeout_seconds=0.2)
    with pytest.raises(GateUnavailable):
        run(gate.decide("acme", "tokens", 1))
    run(gate.aclose())


def test_a_redis_that_forgot_its_scripts_is_sent_them_once(house):
    house.contract(policy_of(quota(10_000)))
    house.decide(1)
    forget_scripts(house.redis)
    house.redis.config_resetstat()

    async def many():
        return await asyncio.gather(*(house.gate.decide("acme", "tokens", 1) for _ in range(500)))

    assert all(decision.allowed for decision in house.run(many()))
    sent = "cmdstat_function|load" if has_functions(house.redis) else "cmdstat_eval"
    assert house.redis.info("commandstats")[sent]["calls"] == 1
