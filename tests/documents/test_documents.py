"""Policy documents: what is refused and how it is told, and what a good one compiles to."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.resources import files

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spendgate.limits import Concurrency, Credits, PerEvent, Quota, Rate
from spendgate.policy import decode_policy
from spendgate_daemon.documents import DocumentError, compile_default, compile_policy, load_document
from spendgate_daemon.documents.compile import UnknownPlan
from spendgate_daemon.documents.load import SCHEMA

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DEFAULT = files("spendgate_daemon.documents").joinpath("default.yaml").read_text(encoding="utf-8")
SMALL = """version: 1
meters:
  runs: {unit: run}
  tokens.in: {unit: token}
  tokens.out: {unit: token}
plans:
  basic:
    limits:
      - {kind: quota, id: month, meter: runs, cap: 10, period: month}
"""


def faults(text):
    with pytest.raises(DocumentError) as caught:
        load_document(text)
    return caught.value.faults


def small_with(limit):
    return SMALL.replace("{kind: quota, id: month, meter: runs, cap: 10, period: month}", limit)


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_default_document_compiles_to_every_kind_of_limit():
    document = load_document(DEFAULT)
    assert list(document.plans) == ["free", "starter", "growth", "enterprise"]
    policies = {plan: compile_policy(document, plan, {"tokens.output": 5000}, now=NOW) for plan in document.plans}
    kinds = {type(limit) for policy in policies.values() for limit in policy.limits}
    assert kinds == {Quota, Credits, Rate, Concurrency, PerEvent}
    growth = policies["growth"].limits[0]
    assert (growth.cap, growth.hard_cap) == (5000, None)
    assert [(t.name, t.at) for t in growth.thresholds] == [("80%", 4000), ("100%", 5000), ("overage", 5001)]
    assert policies["free"].limits[2].meters == ("tokens.input", "tokens.output")
    assert all(decode_policy(policy.encode()) == policy for policy in policies.values())


def test_what_the_default_document_only_names_in_a_comment_is_good_too():
    growth = load_document(DEFAULT.replace("# max_staleness", "max_staleness")).plans["growth"]
    assert growth.max_staleness == "15m"


def test_the_digest_changes_with_the_content_and_not_with_the_layout_or_the_day():
    document, spaced = load_document(SMALL), load_document(SMALL + "\n# a comment\n")
    assert document.digest == spaced.digest
    assert document.digest != load_document(SMALL.replace("cap: 10", "cap: 11")).digest
    later = datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert compile_policy(document, "basic", {}, now=NOW) == compile_policy(document, "basic", {}, now=later)


@pytest.mark.parametrize(
    ("text", "line", "field", "words"),
    [
        ("", 1, "", "empty"),
        ("version: [1\n", 2, "", "not YAML"),
        ("version: 1\nversion: 1\n", 2, "version", "twice"),
        ("a: &x 1\nb: *x\n", 2, "b", "aliases"),
        (SMALL.replace("version: 1", "version: 2"), 1, "version", "1"),
        (SMALL.replace("version: 1", "version: 1.0"), 1, "version", "1, the version"),
        (SMALL + "extra: 1\n", 10, "extra", "unknown field"),
        (
            small_with("{kind: seats, id: x, max: 3}"),
            9,
            "plans.basic.limits[0].kind",
            "quota, credits, rate, concurrency or per_event",
        ),
        (
            small_with("{kind: quota, id: x, meter: runs, cap: -1, period: day}"),
            9,
            "plans.basic.limits[0].cap",
            "whole",
        ),
        (
            small_with("{kind: quota, id: x, meter: runs, cap: 1.5, period: day}"),
            9,
            "plans.basic.limits[0].cap",
            "whole",
        ),
        (
            small_with("{kind: quota, id: x, meter: runs, cap: 1, period: day, match: {}}"),
            9,
            "plans.basic.limits[0].match",
            "1 to 8 metadata fields",
        ),
        (
            small_with('{kind: quota, id: "x\\n", meter: runs, cap: 1, period: day}'),
            9,
            "plans.basic.limits[0].id",
            "small letter",
        ),
        (
            small_with("{kind: quota, id: X!, meter: runs, cap: 1, period: day}"),
            9,
            "plans.basic.limits[0].id",
            "small letter",
        ),
        (
            small_with("{kind: quota, id: x, meter: run, cap: 1, period: day}"),
            9,
            "plans.basic.limits[0].meter",
            "no meter",
        ),
        (
            small_with('{kind: quota, id: x, meter: "*", cap: 1, period: day}'),
            9,
            "plans.basic.limits[0].meter",
            "units",
        ),
        (small_with("{kind: quota, id: x, meter: runs, cap: 1, period: 5x}"), 9, "plans.basic.limits[0].period", "5h"),
        (
            small_with("{kind: quota, id: x, meter: runs, cap: 5, floor: 6, period: day}"),
            9,
            "plans.basic.limits[0].floor",
            "always stop",
        ),
        (
            small_with("{kind: quota, id: x, meter: runs, cap: 5, thresholds: [80, 50], period: day}"),
            9,
            "plans.basic.limits[0].thresholds",
            "ascend",
        ),
        (
            small_with("{kind: quota, id: x, meter: runs, cap: 5, period: day, timezone: Mars/Base}"),
            9,
            "plans.basic.limits[0].timezone",
            "zone",
        ),
        (small_with("{kind: rate, id: x, meter: runs, rate: fast}"), 9, "plans.basic.limits[0].rate", "100000/min"),
        (
            small_with("{kind: rate, id: x, meter: runs, rate: 1/day, burst: 9000000000}"),
            9,
            "plans.basic.limits[0].burst",
            "range",
        ),
        (
            small_with("{kind: credits, id: x, weights: {tokens: {'*': 1}}}"),
            9,
            "plans.basic.limits[0].weights.tokens",
            "no meter",
        ),
        (SMALL + "defaults: {unknown_customer: gold}\n", 10, "defaults.unknown_customer", "no plan"),
        (SMALL.encode() + b"# \xff", 10, "", "UTF-8"),
    ],
)
def test_a_bad_document_is_told_by_line_and_field(text, line, field, words):
    found = faults(text)[0]
    assert (found.line, found.field) == (line, field)
    assert words in found.message


def test_two_limits_of_one_plan_have_two_ids():
    twice = SMALL + "      - {kind: per_event, id: month, max: 3}\n"
    assert "names two limits" in faults(twice)[0].message


def test_a_huge_document_is_refused_before_it_is_read():
    assert "larger than" in faults("#" * (1024 * 1024 + 1))[0].message


def test_contractual_caps_and_their_absence():
    text = small_with("{kind: quota, id: x, meter: runs, cap: contract, period: day}")
    for default, cap in (("deny", 0), ("7", 7)):
        document = load_document(f"{text}defaults: {{missing_contractual_cap: {default}}}\n")
        assert compile_policy(document, "basic", {}, now=NOW).limits[0].hard_cap == cap
        assert compile_policy(document, "basic", {"runs": 30}, now=NOW).limits[0].hard_cap == 30
    document = load_document(f"{text}defaults: {{missing_contractual_cap: unlimited}}\n")
    assert compile_policy(document, "basic", {}, now=NOW).limits == ()


def test_unknown_customers_are_denied_or_given_a_plan():
    assert compile_default(load_document(SMALL), now=NOW).deny_unknown
    named = load_document(SMALL + "defaults: {unknown_customer: basic}\n")
    assert compile_default(named, now=NOW).limits
    with pytest.raises(UnknownPlan, match="it has basic"):
        compile_policy(named, "gold", {}, now=NOW)


def test_the_most_specific_weight_counts():
    text = small_with(
        "{kind: credits, id: w, weights: {tokens.out: {'*': 1, 'claude-*': 2, 'claude-opus-*': 3, claude-x: 4}}}"
    )
    wallet = compile_policy(load_document(text), "basic", {}, now=NOW).limits[0]
    assert [weight.model for weight in wallet.weights] == ["claude-x", "claude-opus-*", "claude-*", "*"]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["contract", "month", "5h", "stop", "*", "deny", "100/min", "quota", [], {}]),
)


@given(st.data())
def test_whatever_is_written_in_a_document_is_good_or_told_with_a_line_that_it_has(data):
    value = yaml.safe_load(DEFAULT)
    at, key = value, None
    for _ in range(data.draw(st.integers(1, 6))):
        if not isinstance(at, dict | list) or not at:
            break
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        parent, at = at, at[key]
    parent[key] = data.draw(VALUES)
    text = json.dumps(value, indent=1, allow_nan=True)
    try:
        document, told = load_document(text), ()
    except DocumentError as exc:
        document, told = None, exc.faults
    assert all(1 <= fault.line <= text.count("\n") + 1 and fault.message for fault in told)
    for plan in document.plans if document is not None else ():
        policy = compile_policy(document, plan, {"tokens.output": 7}, now=NOW)
        assert decode_policy(policy.encode()) == policy
