"""Document, plan and contract → effective policy: every parameter arrives as the number that the gate computes with."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_documents import ZONES, policy_documents
from spendgate.limits import Quota
from spendgate.policy import ReservationTerms, decode_policy
from spendgate_daemon.documents import (
    PolicyError,
    UnknownBillingDay,
    UnknownZone,
    compile_default,
    compile_policy,
    load_document,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
MONTHS = st.datetimes(datetime(1995, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
HEAD = """version: 1
meters: {runs: {unit: run}, tokens.in: {unit: token}, tokens.out: {unit: token}}
timezone: Europe/Berlin
plans:
  basic:
"""


def compiled(*limits, plan="", caps=None, **contract):
    lines = "".join(f"      - {{{limit}}}\n" for limit in limits)
    text = f"{HEAD}    limits:\n{lines}{plan}" if limits else f"{HEAD}{plan or '    limits: []'}"
    return compile_policy(load_document(text), "basic", caps or {}, now=NOW, **contract)


def one(limit, **given):
    [made] = compiled(limit, **given).limits
    return made


QUOTA = "kind: quota, id: x, meter: runs, cap: 250, period: month"
CONTRACT = "kind: quota, id: x, meter: runs, cap: contract, period: day"


def test_match_and_per_are_taken_by_every_kind_that_has_them():
    match = "match: {model: 'claude-*', region: eu}"
    for limit in (
        QUOTA,
        "kind: rate, id: x, meter: runs, rate: 1/s",
        "kind: concurrency, id: x, max: 3",
    ):
        made = one(f"{limit}, {match}, per: agent_id")
        assert made.match == {"model": "claude-*", "region": "eu"}
        assert (made.per, made.max_values) == ("agent_id", 1000)
        assert one(f"{limit}, per: agent_id, max_values: 7").max_values == 7
        plain = one(limit)
        assert (plain.match, plain.per, plain.max_values) == ({}, None, 0)
    for limit in (
        "kind: credits, id: x, weights: {runs: {'*': 1}}",
        "kind: per_event, id: x, meter: runs, max: 3",
    ):
        assert one(f"{limit}, {match}").match == {"model": "claude-*", "region": "eu"}


def test_concurrency_counts_runs_of_any_meter_and_throttles():
    made = one("kind: concurrency, id: x, max: 3")
    assert (made.max, made.unit, made.when_exceeded) == (3, "run", "throttle")
    assert made.meters == ("runs", "tokens.in", "tokens.out")
    made = one("kind: concurrency, id: x, max: 3, meter: 'tokens.*', when_exceeded: stop, mode: shadow")
    assert (made.meters, made.when_exceeded, made.mode) == (("tokens.in", "tokens.out"), "stop", "shadow")


@pytest.mark.parametrize(
    ("limit", "plan", "caps", "allowance"),
    [
        (QUOTA, "", {}, 0),
        (QUOTA, "outage_allowance: 1%", {}, 2),
        (f"{QUOTA}, outage_allowance: 10%", "outage_allowance: 1%", {}, 25),
        (f"{QUOTA}, outage_allowance: 7", "outage_allowance: 1%", {}, 7),
        (f"{QUOTA}, outage_allowance: 0", "outage_allowance: 1%", {}, 0),
        (f"{QUOTA}, outage_allowance: 0%", "outage_allowance: 1%", {}, 0),
        (CONTRACT, "outage_allowance: 1%", {"runs": 999}, 9),
        (CONTRACT, "outage_allowance: 1%", {}, 0),
        (f"{CONTRACT}, outage_allowance: 70", "", {"runs": 1000}, 70),
        (f"{CONTRACT}, outage_allowance: 70", "", {"runs": 50}, 50),
        (f"{CONTRACT}, outage_allowance: 70, overage: {{bill_up_to: 10}}", "", {"runs": 50}, 60),
        (f"{CONTRACT}, outage_allowance: 70, overage: bill", "", {"runs": 50}, 70),
        (f"{QUOTA}, outage_allowance: 100%, overage: bill", "", {}, 250),
    ],
)
def test_an_outage_allowance_is_stated_or_the_plans_and_never_above_the_cap(limit, plan, caps, allowance):
    assert one(limit, plan=f"    {plan}\n" if plan else "", caps=caps).outage_allowance == allowance


def test_a_wallets_allowance_is_in_micro_credits():
    made = one("kind: credits, id: x, weights: {runs: {'*': 1}}, outage_allowance: 12")
    assert made.outage_allowance == 12_000_000


@pytest.mark.parametrize(("fallback", "weights"), [("deny", [7]), ("5", [7, 5])])
def test_a_model_without_a_weight_costs_what_the_document_says(fallback, weights):
    defaults = f"defaults: {{model_without_weight: {fallback}}}\n"
    made = one("kind: credits, id: x, weights: {runs: {gpt-5: 7}}", plan=defaults)
    assert [weight.micro_credits for weight in made.weights] == weights
    assert len(one("kind: credits, id: x, weights: {runs: {'*': 7}}", plan=defaults).weights) == 1


def test_a_bound_of_a_field_has_the_unit_of_the_field_where_it_is_known():
    bound = "kind: per_event, id: x, meter: runs, max: 3"
    assert [one(f"{bound}{field}").unit for field in ("", ", field: context_window", ", field: images")] == [
        "run",
        "token",
        "run",
    ]


def test_thresholds_of_a_contract_stay_in_the_range_of_exact_integers():
    limit = f"{CONTRACT}, overage: bill, thresholds: [50, 1000]"
    names = [threshold.name for threshold in one(limit, caps={"runs": 10**15}).thresholds]
    assert names == ["50%", "overage"]
    assert [(t.name, t.at) for t in one(limit, caps={"runs": 7}).thresholds] == [
        ("50%", 4),
        ("1000%", 70),
        ("overage", 8),
    ]
    assert one(CONTRACT + ", overage: bill", caps={"runs": 9 * 10**15}).thresholds[-1].at == 9 * 10**15 + 1


@pytest.mark.parametrize(
    ("stated", "terms"),
    [
        ("", ReservationTerms()),
        ("lifetime: 5m, max_lifetime: 1h, grace: 30s, at_deadline: release, above: overage", ReservationTerms()),
        ("lifetime: 10s", ReservationTerms(lifetime_us=10_000_000)),
        ("lifetime: 2h", ReservationTerms(lifetime_us=7_200_000_000, max_lifetime_us=7_200_000_000)),
        (
            "max_lifetime: 20s",
            ReservationTerms(lifetime_us=20_000_000, max_lifetime_us=20_000_000, grace_us=20_000_000),
        ),
        ("grace: 0s", ReservationTerms(grace_us=0)),
        ("grace: 2h", ReservationTerms(grace_us=7_200_000_000, max_lifetime_us=7_200_000_000)),
        ("at_deadline: commit, above: reject", ReservationTerms(at_deadline="commit", above="reject")),
    ],
)
def test_reservation_terms_that_are_left_out_give_way_to_those_that_are_stated(stated, terms):
    assert compiled(plan=f"    reservations: {{{stated}}}\n").reservations == terms


def test_staleness_is_in_microseconds_and_of_any_age_unless_stated():
    assert compiled(plan="    max_staleness: 15m\n").max_staleness_us == 900_000_000
    assert compiled().max_staleness_us is None


def local_start(limit, **contract):
    made = one(limit, **contract)
    start, _ = made.window.period_at(NOW_US)
    return datetime.fromtimestamp(start, UTC)


def test_a_contract_has_its_own_zone_and_billing_day():
    month = f"{QUOTA}, anchor_day: contract, timezone: contract"
    assert local_start(month) == datetime(2026, 11, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    tokyo = {"timezone": "Asia/Tokyo", "anchor_day": 15}
    assert local_start(month, **tokyo) == datetime(2026, 11, 15, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert local_start(QUOTA, **tokyo) == datetime(2026, 11, 1, tzinfo=ZoneInfo("Europe/Berlin")), "not asked for"
    fixed = f"{QUOTA}, anchor_day: 20, timezone: UTC"
    assert local_start(fixed, **tokyo) == datetime(2026, 11, 20, tzinfo=UTC)
    assert compiled(QUOTA, **tokyo).timezone == "Asia/Tokyo"
    assert compiled(QUOTA).timezone == "Europe/Berlin"


def test_a_zone_or_a_billing_day_that_does_not_exist_is_told():
    with pytest.raises(UnknownZone, match="'Mars/Base' is no IANA time zone"):
        compiled(QUOTA, timezone="Mars/Base")
    for day in (0, 32):
        with pytest.raises(UnknownBillingDay, match=f"is {day}; months have days 1 to 31"):
            compiled(QUOTA, anchor_day=day)
    assert issubclass(UnknownZone, PolicyError)


def test_equal_policies_have_one_digest_whatever_they_were_made_from():
    plain = HEAD.replace("timezone: Europe/Berlin\n", "")
    limit = f"    limits:\n      - {{{QUOTA}}}\n"
    spelled = load_document(f"{plain.replace('plans:', 'timezone: UTC' + chr(10) + 'plans:')}{limit}")
    left_out = load_document(f"{plain}{limit}")
    assert spelled.digest == left_out.digest
    zone = str(b"UTC", "ascii")  # equal to the default, and another object, as from a database
    made = [
        compile_policy(spelled, "basic", {}, now=NOW),
        compile_policy(left_out, "basic", {}, now=NOW),
        compile_policy(left_out, "basic", {}, now=NOW, timezone=zone, anchor_day=1),
    ]
    assert len({policy.digest for policy in made}) == 1
    stated = compiled(QUOTA, plan="    reservations: {lifetime: 5m, above: overage}\n")
    assert compiled(QUOTA).reservations == stated.reservations
    assert b"reservations" not in stated.encode()


@settings(deadline=None)
@given(
    policy_documents(),
    MONTHS,
    st.dictionaries(st.just("runs"), st.integers(0, 9 * 10**15)),
    st.sampled_from([None, *ZONES]),
)
def test_every_accepted_document_compiles_encodes_and_decodes_to_itself(document, now, caps, zone):
    for plan in document.plans:
        policy = compile_policy(document, plan, caps, now=now, timezone=zone, anchor_day=31)
        decoded = decode_policy(policy.encode())
        assert decoded == policy
        assert decoded.encode() == policy.encode()
        assert policy.timezone == (zone or document.timezone)
        terms = policy.reservations
        assert 0 < terms.lifetime_us <= terms.max_lifetime_us >= terms.grace_us
        for limit in policy.limits:
            assert limit.meters
            if isinstance(limit, Quota):
                assert limit.hard_cap is None or limit.outage_allowance <= limit.hard_cap
                assert limit.floor < (limit.hard_cap or limit.cap) or not limit.floor
                start, end = limit.window.period_at(int(now.timestamp()) * 1_000_000)
                assert start <= now.timestamp() < end
    assert compile_default(document, now=now).deny_unknown


@given(st.integers(0, 9 * 10**15), st.integers(0, 100))
def test_a_percentage_allowance_never_exceeds_its_cap(cap, percent):
    for limit in (
        f"{QUOTA.replace('250', str(cap))}, outage_allowance: {percent}%",
        f"{CONTRACT}, outage_allowance: {percent}%",
    ):
        allowance = one(limit, caps={"runs": cap}).outage_allowance
        assert 0 <= allowance <= cap
        assert allowance == cap * percent // 100
