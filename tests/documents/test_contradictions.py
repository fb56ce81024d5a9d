"""Documents that contradict themselves are refused with line, field and reason; each beside one that makes sense."""

from __future__ import annotations

import pytest

from spendgate_daemon.documents import DocumentError, load_document

HEAD = """version: 1
meters:
  runs: {unit: run}
  tokens.in: {unit: token}
  tokens.out: {unit: token}
plans:
  basic:
"""
LIMIT_LINE = 10


def with_limits(*limits, plan=""):
    """Each limit on a line of its own, the first on LIMIT_LINE; what the plan says besides comes last."""
    lines = "".join(f"      - {{{limit}}}\n" for limit in limits)
    return f"{HEAD}    description: one\n    limits:\n{lines}{plan}"


def told(text):
    with pytest.raises(DocumentError) as caught:
        load_document(text)
    return [(fault.line, fault.field.removeprefix("plans.basic."), fault.message) for fault in caught.value.faults]


QUOTA = "kind: quota, id: x, meter: runs, cap: 100"
MONTH = f"{QUOTA}, period: month"
OTHER = "kind: quota, id: y, meter: runs, cap: 100"
WALLET = "kind: credits, id: w, weights: {runs: {'*': 1}}"
RATE = "kind: rate, id: r, meter: runs, rate: 60/min"
OPEN = "kind: concurrency, id: o, max: 3"
BOUND = "kind: per_event, id: e, meter: runs, max: 8"

PAIRS = {
    "a floor that is the cap": (f"{MONTH}, floor: 100", f"{MONTH}, floor: 99", "floor", "always stop"),
    "a floor above what is billed, too": (
        f"{MONTH}, overage: {{bill_up_to: 50}}, floor: 150",
        f"{MONTH}, overage: {{bill_up_to: 50}}, floor: 120",
        "floor",
        "(150)",
    ),
    "a floor of a part of the use": (
        f"{MONTH}, floor: 5, match: {{model: gpt-5}}",
        f"{MONTH}, floor: 0, match: {{model: gpt-5}}",
        "floor",
        "whole customer",
    ),
    "a floor of one agent": (f"{MONTH}, floor: 5, per: agent_id", f"{MONTH}, per: agent_id", "floor", "(per)"),
    "a floor of a part of a wallet": (
        f"{WALLET}, floor: 5, match: {{region: eu}}",
        f"{WALLET}, floor: 5",
        "floor",
        "whole customer",
    ),
    "a threshold above a cap that blocks": (
        f"{MONTH}, thresholds: [80, 150]",
        f"{MONTH}, thresholds: [80, 150], overage: bill",
        "thresholds",
        "150 % is never reached",
    ),
    "a threshold above all that is billed": (
        f"{MONTH}, thresholds: [151], overage: {{bill_up_to: 50}}",
        f"{MONTH}, thresholds: [150], overage: {{bill_up_to: 50}}",
        "thresholds",
        "151 % of the cap",
    ),
    "a threshold beyond exact integers": (
        "kind: quota, id: x, meter: runs, cap: 9000000000000000, period: day, thresholds: [101], overage: bill",
        "kind: quota, id: x, meter: runs, cap: 9000000000000000, period: day, thresholds: [100], overage: bill",
        "thresholds",
        "101 %",
    ),
    "a denial of what is billed without end": (
        f"{MONTH}, overage: bill, when_exceeded: stop",
        f"{MONTH}, overage: {{bill_up_to: 50}}, when_exceeded: stop",
        "when_exceeded",
        "never exceeded",
    ),
    "a floor of what is billed without end": (
        f"{MONTH}, overage: bill, floor: 5",
        f"{MONTH}, overage: bill",
        "floor",
        "always something left",
    ),
    "an allowance above the cap": (
        f"{MONTH}, outage_allowance: 101",
        f"{MONTH}, outage_allowance: 100",
        "outage_allowance",
        "more than the limit",
    ),
    "a percentage of a wallet": (
        f"{WALLET}, outage_allowance: 1%",
        f"{WALLET}, outage_allowance: 10",
        "outage_allowance",
        "no cap to take a percentage of",
    ),
    "a percentage above a hundred": (
        f"{MONTH}, outage_allowance: 101%",
        f"{MONTH}, outage_allowance: 100%",
        "outage_allowance",
        "percentage",
    ),
    "max_values of nothing": (
        f"{RATE}, max_values: 1000",
        f"{RATE}, max_values: 1000, per: agent_id",
        "max_values",
        "without per",
    ),
    "too many values": (
        f"{RATE}, per: agent_id, max_values: 10001",
        f"{RATE}, per: agent_id, max_values: 10000",
        "max_values",
        "10000",
    ),
    "a wallet for each agent": (
        f"{WALLET}, per: agent_id",
        f"{WALLET}, match: {{agent_id: a}}",
        "per",
        "whole customer",
    ),
    "a single event counted apart": (
        f"{BOUND}, per: agent_id",
        f"{BOUND}, match: {{agent_id: a}}",
        "per",
        "single event",
    ),
    "nobody may run": (OPEN.replace("max: 3", "max: 0"), OPEN.replace("max: 3", "max: 1"), "max", "deny every run"),
    "an empty match": (f"{RATE}, match: {{}}", f"{RATE}, match: {{model: '*'}}", "match", "1 to 8"),
    "nine fields to match": (
        f"{RATE}, match: {{{', '.join(f'f{n}: x' for n in range(9))}}}",
        f"{RATE}, match: {{{', '.join(f'f{n}: x' for n in range(8))}}}",
        "match",
        "1 to 8",
    ),
    "a star in the middle": (
        f"{RATE}, match: {{model: 'a*b'}}",
        f"{RATE}, match: {{model: 'ab*'}}",
        "match.model",
        "a final *",
    ),
    "a number to match": (f"{RATE}, match: {{tier: 1}}", f"{RATE}, match: {{tier: '1'}}", "match.tier", "a name"),
    "a field that no event can have": (
        f"{RATE}, match: {{'': x}}",
        f"{RATE}, match: {{_a.b-c: x}}",
        "match.",
        "metadata",
    ),
    "an anchor day of a week": (
        f"{QUOTA}, period: week, anchor_day: 1",
        f"{QUOTA}, period: week, anchor_weekday: sunday",
        "anchor_day",
        "only a month",
    ),
    "a weekday of a month": (
        f"{MONTH}, anchor_weekday: monday",
        f"{MONTH}, anchor_day: contract",
        "anchor_weekday",
        "only a week",
    ),
    "day 32": (f"{MONTH}, anchor_day: 32", f"{MONTH}, anchor_day: 31", "anchor_day", "1 to 31"),
    "an anchor of a day": (
        f"{QUOTA}, period: day, anchor: '2026-01-01T06:00:00Z'",
        f"{QUOTA}, period: 24h, anchor: '2026-01-01T06:00:00Z'",
        "anchor",
        "by the calendar",
    ),
    "an anchor without a zone": (
        f"{QUOTA}, period: 5h, anchor: 2026-01-01T06:00:00",
        f"{QUOTA}, period: 5h, anchor: 2026-01-01T06:00:00+02:00",
        "anchor",
        "RFC 3339",
    ),
    "an anchor between two seconds": (
        f"{QUOTA}, period: 5h, anchor: 2026-01-01T06:00:00.5Z",
        f"{QUOTA}, period: 5h, anchor: 2026-01-01T06:00:00.0Z",
        "anchor",
        "whole second",
    ),
    "a zone of a duration": (
        f"{QUOTA}, period: 24h, timezone: Europe/Berlin",
        f"{QUOTA}, period: day, timezone: Europe/Berlin",
        "timezone",
        "the same in every time zone",
    ),
    "a zone that is none": (
        f"{QUOTA}, period: day, timezone: localtime",
        f"{QUOTA}, period: day, timezone: contract",
        "timezone",
        "no IANA time zone",
    ),
    "a period of nothing": (f"{QUOTA}, period: 0s", f"{QUOTA}, period: 1s", "period", "neither month"),
    "a rate that integers can't hold": (
        f"{RATE}, burst: 10000000000",
        f"{RATE}, burst: 100000000",
        "burst",
        "exact integers",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_limit_that_contradicts_itself_is_refused_and_its_neighbour_is_not(name):
    refused, accepted, field, words = PAIRS[name]
    load_document(with_limits(accepted))
    line, path, message = told(with_limits(refused))[0]
    assert (line, path) == (LIMIT_LINE, f"limits[0].{field}")
    assert words in message


SAME = {
    "in other words": (f"{QUOTA}, period: 60m", f"{OTHER}, period: 1h"),
    "a day in UTC": (f"{QUOTA}, period: day", f"{OTHER}, period: 24h"),
    "a pattern of the same meters": (
        "kind: rate, id: x, meter: 'tokens.*', rate: 5/s",
        "kind: rate, id: y, meter: 'tokens*', rate: 7/s",
    ),
    "another number": (f"{MONTH}", f"{OTHER.replace('100', '200')}, period: month"),
    "another ending": (f"{MONTH}", f"{OTHER.replace('100', '200')}, period: month, overage: bill"),
    "the order of fields": (f"{RATE}, match: {{a: x, b: y}}", f"{RATE.replace('r,', 's,')}, match: {{b: y, a: x}}"),
    "two wallets": (WALLET, WALLET.replace("id: w", "id: v")),
    "two bounds": (BOUND, BOUND.replace("id: e", "id: f")),
    "two ceilings": (OPEN, OPEN.replace("id: o", "id: p")),
}
DIFFERENT = {
    "another zone": (f"{QUOTA}, period: day", f"{OTHER}, period: day, timezone: Europe/Berlin"),
    "another anchor": (f"{QUOTA}, period: 5h", f"{OTHER}, period: 5h, anchor: '2026-01-01T00:00:00Z'"),
    "another billing day": (f"{MONTH}, anchor_day: 1", f"{OTHER}, period: month, anchor_day: contract"),
    "a shadow": (MONTH, f"{OTHER.replace('100', '80')}, period: month, mode: shadow"),
    "a ceiling above the contract": (
        f"{QUOTA.replace('100', 'contract')}, period: month, overage: bill",
        f"{OTHER}, period: month",
    ),
    "a part of it": (MONTH, f"{OTHER}, period: month, match: {{model: gpt-5}}"),
    "another part of it": (f"{MONTH}, match: {{model: gpt-5}}", f"{OTHER}, period: month, match: {{model: 'gpt-*'}}"),
    "each agent and all of them": (MONTH, f"{OTHER}, period: month, per: agent_id"),
    "a second and an hour": (RATE, "kind: rate, id: s, meter: runs, rate: 5/s"),
    "some of the meters": (
        "kind: quota, id: x, meter: 'tokens.*', cap: 9, period: day",
        "kind: quota, id: y, meter: tokens.in, cap: 5, period: day",
    ),
    "two fields": (f"{BOUND}, field: images", f"{BOUND.replace('id: e', 'id: f')}, field: context_window"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_counted_twice_is_refused_at_the_second(name):
    first, second = SAME[name]
    [(line, path, message)] = told(with_limits(first, second))
    assert (line, path) == (LIMIT_LINE + 1, "limits[1].id")
    assert "counts exactly what" in message


@pytest.mark.parametrize("name", DIFFERENT)
def test_limits_that_differ_in_what_they_count_stand_together(name):
    load_document(with_limits(*DIFFERENT[name]))


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        (f"{QUOTA}, period: day", f"{OTHER}, period: month"),
        (f"{QUOTA}, period: 5h", f"{OTHER}, period: day"),
        (f"{QUOTA}, period: 30s", f"{OTHER}, period: 1h"),
        (f"{QUOTA}, period: day, timezone: Europe/Berlin", f"{OTHER}, period: week"),
        (f"{QUOTA}, period: day, per: agent_id", f"{OTHER}, period: month, per: agent_id"),
        (f"{QUOTA.replace('100', '160')}, period: day", f"{OTHER}, period: month, overage: {{bill_up_to: 50}}"),
    ],
)
def test_a_cap_that_a_longer_period_never_lets_be_reached_is_refused(shorter, longer):
    [(line, path, message)] = told(with_limits(shorter, longer))
    assert (line, path) == (LIMIT_LINE, "limits[0].cap")
    assert "never reached: 'y' lets through" in message


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        (f"{QUOTA.replace('100', '99')}, period: day", f"{OTHER}, period: month"),
        (f"{QUOTA}, period: day", f"{OTHER}, period: month, overage: bill"),
        (f"{QUOTA}, period: day", f"{OTHER}, period: month, mode: shadow"),
        (f"{QUOTA}, period: day", f"{OTHER}, period: month, per: agent_id"),
        (f"{QUOTA}, period: day", f"{OTHER.replace('100', 'contract')}, period: month"),
        (f"{QUOTA}, period: 30d", f"{OTHER}, period: month"),
        (f"{QUOTA}, period: day", "kind: quota, id: y, meter: tokens.in, cap: 100, period: month"),
    ],
)
def test_a_cap_that_can_be_reached_is_not(shorter, longer):
    load_document(with_limits(shorter, longer))


@pytest.mark.parametrize(
    ("models", "model", "good"),
    [
        ("['gpt-*']", "claude-*", False),
        ("['gpt-5']", "gpt-5-mini", False),
        ("['gpt-5']", "gpt-*", True),
        ("['gpt-*']", "gpt-5", True),
        ("['gpt-5-*']", "gpt-*", True),
        ("['gpt-*', 'claude-opus-4']", "claude-*", True),
        ("['claude-opus-4']", "claude-opus-*", True),
        ("['*']", "anything", True),
    ],
)
def test_a_limit_of_models_that_the_plan_forbids_never_applies(models, model, good):
    text = with_limits(f"{RATE}, match: {{model: '{model}'}}", plan=f"    models: {models}\n")
    if good:
        load_document(text)
    else:
        [(line, path, message)] = told(text)
        assert (line, path) == (LIMIT_LINE, "limits[0].match.model")
        assert "never applies" in message


@pytest.mark.parametrize(
    ("plan", "field", "words"),
    [
        ("reservations: {lifetime: 2h, max_lifetime: 1h}", "reservations.lifetime", "longer than max_lifetime (1h)"),
        ("reservations: {grace: 61m, max_lifetime: 1h}", "reservations.grace", "longer than max_lifetime (1h)"),
        ("reservations: {lifetime: 0s}", "reservations.lifetime", "from 1s to 30d"),
        ("reservations: {max_lifetime: 31d}", "reservations.max_lifetime", "from 1s to 30d"),
        ("reservations: {lifetime: soon}", "reservations.lifetime", "a duration such as 30s"),
        ("reservations: {above: bill}", "reservations.above", "reject, cap or overage"),
        ("reservations: {at_deadline: stop}", "reservations.at_deadline", "release or commit"),
        ("reservations: {ttl: 5m}", "reservations.ttl", "unknown field"),
        ("max_staleness: 0s", "max_staleness", "from 1s to 30d"),
        ("max_staleness: month", "max_staleness", "a duration such as 30s"),
        ("outage_allowance: 5", "outage_allowance", "percentage"),
        ("outage_allowance: 1%", "outage_allowance", "no quota"),
    ],
)
def test_terms_of_a_plan_are_held_to_each_other(plan, field, words):
    [(line, path, message)] = told(with_limits(RATE, plan=f"    {plan}\n"))
    assert (line, path) == (LIMIT_LINE + 1, field)
    assert words in message


@pytest.mark.parametrize(
    "plan",
    [
        "reservations: {lifetime: 1h, max_lifetime: 1h, grace: 0s}",
        "reservations: {lifetime: 2h}",
        "reservations: {max_lifetime: 10s}",
        "reservations: {}",
        "reservations: {max_lifetime: 30d}",
        "max_staleness: 1s",
        "max_staleness: 30d",
        "outage_allowance: 0%",
    ],
)
def test_terms_of_a_plan_that_make_sense_are_taken(plan):
    load_document(with_limits(MONTH, plan=f"    {plan}\n"))


def test_faults_come_in_the_order_of_their_lines():
    bad = with_limits(
        f"{MONTH}, floor: 100, thresholds: [200]",
        f"{OTHER}, period: month",
        OPEN.replace("max: 3", "max: 0"),
        plan="    max_staleness: 0s\n",
    )
    found = told(bad)
    assert [line for line, _, _ in found] == [10, 10, 11, 12, 13]
    assert found == told(bad)
