"""What changed between two documents: in meaning, in words, and whether it got tighter or looser."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_documents import policy_documents
from spendgate_daemon.documents import diff_documents, load_document, render_diff
from spendgate_daemon.documents.diff import diff_files
from spendgate_daemon.documents.load import DEFAULT_DOCUMENT, load_default

HEAD = """version: 1
meters: {runs: {unit: run}, tokens.in: {unit: token}, tokens.out: {unit: token}}
plans:
  basic:
"""
QUOTA = "kind: quota, id: x, meter: runs, cap: 100000, period: month"
WALLET = "kind: credits, id: x, weights: {runs: {'*': 3}, tokens.in: {gpt-5: 4}}"
RATE = "kind: rate, id: x, meter: runs, rate: 60/min"
OPEN = "kind: concurrency, id: x, max: 3"
BOUND = "kind: per_event, id: x, meter: runs, max: 8"


def document(*limits, plan="", rest=""):
    lines = "".join(f"      - {{{limit}}}\n" for limit in limits)
    return load_document(f"{HEAD}    description: one\n    limits: {'' if lines else '[]'}\n{lines}{plan}{rest}")


def told(old, new):
    return [str(change).removeprefix("plan basic") for change in diff_documents(old, new)]


OPPOSITE = {"(tighter)": "(looser)", "(looser)": "(tighter)"}

LIMITS = [
    (QUOTA, QUOTA.replace("100000", "80000"), "cap 100,000 -> 80,000 (tighter)"),
    (QUOTA, QUOTA.replace("100000", "contract"), "cap 100,000 -> the contractual cap"),
    (QUOTA, QUOTA.replace("month", "day"), "period month -> day (looser)"),
    (QUOTA, QUOTA.replace("month", "30d"), "period month -> 30d"),
    (QUOTA, f"{QUOTA}, anchor_day: 15", "period month -> month from day 15"),
    (QUOTA, f"{QUOTA}, timezone: contract", "period month -> month in the customer's time zone"),
    (f"{QUOTA}, thresholds: [80]", f"{QUOTA}, thresholds: [80, 95]", "thresholds 80% -> 80%, 95%"),
    (QUOTA, f"{QUOTA}, overage: bill", "overage blocked -> billed (looser)"),
    (
        f"{QUOTA}, overage: {{bill_up_to: 5000}}",
        f"{QUOTA}, overage: {{bill_up_to: 4000}}",
        "overage billed up to 5,000 -> billed up to 4,000 (tighter)",
    ),
    (QUOTA, f"{QUOTA}, floor: 60", "floor 0 -> 60 (tighter)"),
    (QUOTA, f"{QUOTA}, when_exceeded: throttle", "when_exceeded stop -> throttle (looser)"),
    (f"{QUOTA}, mode: shadow", QUOTA, "mode shadow -> enforce (tighter)"),
    (f"{QUOTA}, mode: shadow", f"{QUOTA.replace('100000', '8')}, mode: shadow", "cap 100,000 -> 8"),
    (QUOTA, f"{QUOTA}, match: {{model: 'gpt-*'}}", "match added: model is gpt-* (looser)"),
    (
        f"{QUOTA}, match: {{model: 'gpt-*'}}",
        f"{QUOTA}, match: {{model: gpt-5, region: eu}}",
        "match model is gpt-* -> model is gpt-5 and region is eu (looser)",
    ),
    (
        f"{QUOTA}, match: {{model: 'gpt-*'}}",
        f"{QUOTA}, match: {{model: 'claude-*'}}",
        "match model is gpt-* -> model is claude-*",
    ),
    (QUOTA, f"{QUOTA}, per: agent_id", "per added: agent_id (looser)"),
    (f"{QUOTA}, per: model", f"{QUOTA}, per: agent_id", "per model -> agent_id"),
    (f"{QUOTA}, per: model", f"{QUOTA}, per: model, max_values: 9", "max_values 1,000 -> 9 (tighter)"),
    (QUOTA, f"{QUOTA}, outage_allowance: 50", "outage_allowance added: 50 (looser)"),
    (
        f"{QUOTA}, outage_allowance: 5000",
        f"{QUOTA}, outage_allowance: 1%",
        "outage_allowance 5,000 -> 1% (tighter)",
    ),
    (
        QUOTA.replace("runs", "tokens.in"),
        QUOTA.replace("runs", "'tokens.*'"),
        "meters tokens.in -> tokens.in, tokens.out (tighter)",
    ),
    (WALLET, WALLET.replace("3", "4"), "weight of runs for any model 3 -> 4 (tighter)"),
    (WALLET, WALLET.replace("{'*': 3}", "{'*': 3, 'big-*': 9}"), "weight of runs for big-* 3 -> 9 (tighter)"),
    (WALLET, WALLET.replace("{gpt-5: 4}", "{gpt-5: 4, big: 9}"), "weight of tokens.in for big denied -> 9 (looser)"),
    (WALLET, WALLET.replace(", tokens.in: {gpt-5: 4}", ""), "weights of tokens.in gpt-5 4 -> free (looser)"),
    (WALLET, f"{WALLET}, floor: 1", "floor 0 -> 1 (tighter)"),
    (WALLET, f"{WALLET}, outage_allowance: 7", "outage_allowance 0 -> 7 (looser)"),
    (RATE, RATE.replace("60/min", "90/min"), "rate 60/min -> 90/min (looser)"),
    (RATE, f"{RATE}, burst: 5", "burst 60 -> 5 (tighter)"),
    (RATE, RATE.replace("60/min", "1/s"), "burst 60 -> 1 (tighter)"),
    (OPEN, OPEN.replace("3", "2"), "max 3 -> 2 (tighter)"),
    (OPEN, f"{OPEN}, meter: runs", "meters runs, tokens.in, tokens.out -> runs (looser)"),
    (BOUND, BOUND.replace("8", "9"), "max 8 -> 9 (looser)"),
    (BOUND, f"{BOUND}, field: images", "field added: images"),
]


@pytest.mark.parametrize(("old", "new", "line"), LIMITS, ids=[line for _, _, line in LIMITS])
def test_a_changed_limit_is_told_in_one_line_and_back_again_the_other_way(old, new, line):
    assert told(document(old), document(new)) == [f", limit x: {line}"]
    [back] = told(document(new), document(old))
    for effect, opposite in OPPOSITE.items():
        assert (effect in line) is (opposite in back)


def test_a_rate_and_a_burst_that_is_stated_are_told_as_both():
    lines = told(document(RATE), document(f"{RATE.replace('60/min', '90/min')}, burst: 200"))
    assert lines == [", limit x: rate 60/min -> 90/min (looser)", ", limit x: burst 60 -> 200 (looser)"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("1%", "2%", "outage_allowance 1% -> 2% (looser)"),
        ("70", "50", "outage_allowance 70 -> 50 (tighter)"),
        ("0", "50", "outage_allowance added: 50 (looser)"),
        ("0%", "2%", "outage_allowance added: 2% (looser)"),
        ("50", "2%", "outage_allowance 50 -> 2%"),
    ],
)
def test_allowances_of_a_contractual_cap_are_compared_where_they_can_be(old, new, line):
    contractual = QUOTA.replace("100000", "contract")
    versions = [document(f"{contractual}, outage_allowance: {stated}") for stated in (old, new)]
    assert told(*versions) == [f", limit x: {line}"]


def test_a_faster_rate_with_a_smaller_burst_is_told_as_both():
    lines = told(document(RATE), document(RATE.replace("60/min", "2/s")))
    assert lines == [", limit x: rate 60/min -> 2/s (looser)", ", limit x: burst 60 -> 2 (tighter)"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (QUOTA.replace("month", "60m"), QUOTA.replace("month", "1h")),
        (QUOTA.replace("month", "day"), QUOTA.replace("month", "day, timezone: UTC")),
        (QUOTA, f"{QUOTA}, thresholds: [], floor: 0, mode: enforce, overage: block, anchor_day: 1"),
        (QUOTA.replace("runs", "'tokens.*'"), QUOTA.replace("runs", "'token*'")),
        (RATE, f"{RATE}, burst: 60"),
        (f"{RATE}, match: {{a: x, b: y}}", f"{RATE}, match: {{b: y, a: x}}"),
        (f"{RATE}, per: a", f"{RATE}, per: a, max_values: 1000"),
        (WALLET, WALLET.replace("{'*': 3}", "{'*': 3, 'gpt-*': 3}")),
        (QUOTA, f"{QUOTA}, outage_allowance: 0"),
    ],
)
def test_the_same_in_other_words_is_no_change(old, new):
    assert told(document(old), document(new)) == []
    assert told(document(new), document(old)) == []


PLANS = [
    ("", "models: [gpt-5]", "models any -> gpt-5 (tighter)"),
    ("models: [gpt-5, gpt-6]", "models: [gpt-5]", "model removed: gpt-6 (tighter)"),
    ("models: [gpt-5]", "models: ['gpt-*', gpt-5]", "model added: gpt-* (looser)"),
    ("", "max_staleness: 15m", "max_staleness added: 15m (tighter)"),
    ("max_staleness: 15m", "max_staleness: 1h", "max_staleness 15m -> 1h (looser)"),
    ("outage_allowance: 1%", "outage_allowance: 2%", "outage_allowance 1% -> 2% (looser)"),
    ("", "reservations: {lifetime: 90s}", "reservations.lifetime 5m -> 90s"),
    ("", "reservations: {max_lifetime: 2h}", "reservations.max_lifetime 1h -> 2h (looser)"),
    ("", "reservations: {grace: 0s}", "reservations.grace 30s -> 0s (tighter)"),
    ("", "reservations: {at_deadline: commit}", "reservations.at_deadline release -> commit (tighter)"),
    ("", "reservations: {above: reject}", "reservations.above overage -> reject (tighter)"),
    ("", "reservations: {above: cap}", "reservations.above overage -> cap"),
]


@pytest.mark.parametrize(("old", "new", "line"), PLANS, ids=[line for _, _, line in PLANS])
def test_a_changed_plan_is_told(old, new, line):
    def plan(text):
        return document(QUOTA, plan=f"    {text}\n" if text else "")

    assert told(plan(old), plan(new)) == [f": {line}"]


def test_what_a_plan_says_of_its_terms_in_other_words_is_no_change():
    for old, new in (
        ("models: ['gpt-*']", "models: ['gpt-*', gpt-5]"),
        ("max_staleness: 60s", "max_staleness: 1m"),
        ("reservations: {}", "reservations: {lifetime: 300s, above: overage}"),
        ("description: one", "description: two"),
    ):
        plans = [load_document(f"{HEAD}    {text}\n    limits:\n      - {{{QUOTA}}}\n") for text in (old, new)]
        assert told(*plans) == []


def test_the_order_of_limits_is_told_because_the_first_that_stops_is_the_one_that_is_named():
    other = QUOTA.replace("id: x", "id: y").replace("runs", "tokens.in")
    assert told(document(QUOTA, other), document(other, QUOTA)) == [": order of limits x, y -> y, x"]


def test_limits_and_plans_come_and_go():
    lines = told(document(QUOTA), document(OPEN.replace("id: x", "id: o")))
    assert lines == [
        ", limit o added: at most 3 runs open at once, then throttle (tighter)",
        ", limit x removed: 100,000 of runs per month, then stop (looser)",
    ]
    lines = told(document(QUOTA), document(f"{RATE}, mode: shadow"))
    assert lines == [
        ", limit x removed: 100,000 of runs per month, then stop (looser)",
        ", limit x added: 60/min of runs, then throttle (shadow)",
    ]
    more = document(QUOTA, rest="  gold: {limits: []}\n")
    assert list(map(str, diff_documents(document(QUOTA), more))) == ["plan gold added"]
    assert list(map(str, diff_documents(more, document(QUOTA)))) == ["plan gold removed"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("timezone: UTC", "timezone: Europe/Berlin", "timezone UTC -> Europe/Berlin"),
        (
            "defaults: {missing_credits: 5}",
            "defaults: {missing_credits: 0}",
            "defaults.missing_credits 5 -> 0 (tighter)",
        ),
        (
            "defaults: {missing_contractual_cap: 5}",
            "defaults: {missing_contractual_cap: unlimited}",
            "defaults.missing_contractual_cap 5 -> unlimited (looser)",
        ),
        (
            "defaults: {model_without_weight: 5}",
            "defaults: {model_without_weight: deny}",
            "defaults.model_without_weight 5 -> deny (tighter)",
        ),
        (
            "defaults: {unknown_customer: deny}",
            "defaults: {unknown_customer: basic}",
            "defaults.unknown_customer deny -> basic (looser)",
        ),
    ],
)
def test_what_a_document_says_for_all_plans_is_told_once(old, new, line):
    lines = list(map(str, diff_documents(document(QUOTA, rest=f"{old}\n"), document(QUOTA, rest=f"{new}\n"))))
    assert lines == [f"document: {line}"]


def test_meters_come_and_go_with_what_counts_them():
    old = document(QUOTA.replace("runs", "'tokens.*'"))
    new = load_document(old.text.replace("tokens.out: {unit: token}", "tokens.all: {unit: token}"))
    assert list(map(str, diff_documents(old, new))) == [
        "document: meter added: tokens.all (token) (looser)",
        "document: meter removed: tokens.out (token) (tighter)",
        "plan basic, limit x: meters tokens.in, tokens.out -> tokens.all, tokens.in",
    ]


@settings(deadline=None)
@given(policy_documents(), policy_documents())
def test_no_document_differs_from_itself_and_every_change_back_is_the_opposite(old, new):
    assert diff_documents(old, old) == []
    there, back = diff_documents(old, new), diff_documents(new, old)
    assert there == diff_documents(old, new)
    kinds = {"added": "removed", "removed": "added", "changed": "changed"}
    effects = {"tighter": "looser", "looser": "tighter", "neither": "neither"}

    def essence(change, *, turned=False):
        kind = kinds[change.kind] if turned else change.kind
        values = (change.new, change.old) if turned else (change.old, change.new)
        effect = effects[change.effect] if turned else change.effect
        return (change.plan or "", change.limit or "", change.field, kind, *values, effect)

    assert sorted(essence(change, turned=True) for change in there) == sorted(map(essence, back))
    if old.digest == new.digest:
        assert there == []


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_comments_layout_and_the_order_of_keys_are_no_change(rng: random.Random):
    def shuffled(value):
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in rng.sample(list(value), len(value))}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    default = load_default()
    other = load_document("# another layout\n" + json.dumps(shuffled(yaml.safe_load(default.text)), indent=3))
    assert diff_documents(default, other) == []
    assert other.digest == default.digest


def test_the_report_counts_and_the_command_exits_by_what_it_found(tmp_path):
    assert render_diff([]) == "no change in meaning"
    old, new, bad = tmp_path / "old.yaml", tmp_path / "new.yaml", tmp_path / "bad.yaml"
    text = load_default().text
    old.write_text(text)
    new.write_text(text.replace("cap: 10000,", "cap: 8000,").replace("max: 100}", "max: 200}") + "# a comment\n")
    bad.write_text(text.replace("version: 1", "version: 2"))

    def run(*paths):
        command = [sys.executable, "-m", "spendgate_daemon.cli", "policy", "diff", *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    code, printed = run(old, new)
    assert (code, printed.splitlines()) == (
        1,
        [
            "plan free, limit runs-month: cap 10,000 -> 8,000 (tighter)",
            "plan starter, limit runs-open: max 100 -> 200 (looser)",
            "2 changes: 1 tighter, 1 looser",
        ],
    )
    assert diff_files(old, old) == ("no change in meaning", 0)
    report, code = diff_files(old, bad)
    assert code == 2
    assert report.startswith(f"{bad}: 1 fault")
    code, printed = run(tmp_path / DEFAULT_DOCUMENT, old)
    assert code == 2
    assert "No such file" in printed
