"""What people are told: a sentence for every code that can be given, the numbers, and the smallest thing that helps."""

from __future__ import annotations

import ast
import asyncio
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

import spendgate
from house import DENY_UNKNOWN, credits_limit, per_event, policy_of, quota, rate
from spendgate.calls import settle_arguments
from spendgate.correction import Correction
from spendgate.corrector import Original, correct_arguments
from spendgate.limits import Concurrency, OpenCounter
from spendgate.local_time import local_text
from spendgate.outage import Outage
from spendgate.policy import ReservationTerms
from spendgate.reasons import REASONS
from spendgate.script import CORRECT, PUT_EXTERNAL, REPAIR_RESERVED, SETTLE
from spendgate.state import Override
from spendgate.testing import FakeGate, SyncMemoryTransport
from spendgate.testing.fake import START
from spendgate.testing.memory import tag_of
from spendgate.window import calendar_window

HOUR_US = 3_600_000_000
ROOT = Path(spendgate.__file__).parent
OUTCOMES = ("allow", "throttle", "stop")
ENDS = {"committed", "released", "extended", "expired", "expired_committed"}
IN_AN_OUTAGE = {"allowed_in_outage", "outage"}
"""Given by a process by itself."""

RUNS = Concurrency("open-runs", ("tokens",), 1)


def start_us() -> int:
    return int(START.timestamp()) * 1_000_000


def known(*limits, granted=None, **fields) -> FakeGate:
    """A fake with `acme` under these limits; its clock stands at midnight of 2026-01-01, UTC."""
    gate = FakeGate(DENY_UNKNOWN)
    gate.contract("acme", policy_of(*limits, **fields), granted_micro_credits=granted)
    return gate


def ask(gate, quantity=1, **fields):
    return asyncio.run(gate.decide("acme", "tokens", quantity, **fields))


def reserve(gate, quantity=1):
    event = spendgate.usage_event("acme", "tokens", quantity)
    return asyncio.run(gate.submit(event, mode="reserve"))


def finish(gate, how, *arguments):
    reservation_id = reserve(gate, 10).reservation_id
    asyncio.run(getattr(gate, how)(reservation_id, *arguments))


def used(gate, quantity):
    assert ask(gate, quantity).allowed
    return gate


def stopped_by_override(gate):
    gate.override("acme", Override("o-7", "stop", start_us() + HOUR_US))
    return ask(gate)


def status(name):
    gate = FakeGate(DENY_UNKNOWN)
    gate.contract("acme", policy_of(), status=name)
    return ask(gate)


def let_pass():
    gate = known(quota(10))
    gate.override("acme", Override("o-8", "let_pass", start_us() + HOUR_US, 100))
    return ask(gate, 11)


def of_a_stale_policy():
    past = calendar_window([0, 86_400])
    return ask(known(quota(10, window=past, period="month", id="tokens-month")))


def of_a_stale_mirror():
    gate = known(quota(10), max_staleness_us=1_000_000)
    gate.redis.mirrored_at_us = start_us() - 1_000_001
    return ask(gate)


def of_one_value_too_many():
    gate = known(quota(10, per="agent_id", max_values=1))
    assert ask(gate, metadata={"agent_id": "a"}).allowed
    return ask(gate, metadata={"agent_id": "b"})


def of_one_run_too_many():
    gate = known(RUNS)
    assert reserve(gate).allowed
    return reserve(gate)


def overdue(at_deadline):
    gate = known(quota(), reservations=ReservationTerms(at_deadline=at_deadline))
    reserve(gate)
    gate.clock.advance(hours=1)
    gate.sweep()
    return gate


def ended(how, *arguments):
    gate = known(quota())
    finish(gate, how, *arguments)
    return gate


def outside_the_gate():
    gate = known(quota(10))
    day = start_us() // 1_000_000
    tag = tag_of(spendgate.keys.partition_of("acme"))
    gate.redis.run(PUT_EXTERNAL, [tag, "acme", "tokens-day", day, 9, start_us()])
    return gate


def reset():
    gate = used(known(quota(10)), 10)
    gate.clock.advance(days=1)
    gate.sweep()
    return gate


def in_an_outage(quantity):
    gate = known(quota(10, outage_allowance=8))
    with tempfile.TemporaryDirectory() as folder:
        gate.outage = Outage(Path(folder), lambda: SyncMemoryTransport(gate.redis), gate._policies)
        assert gate.outage.wait_for_care(20)
        assert ask(gate).allowed
        gate.transport.down = True
        decision = ask(gate, quantity)
        gate.outage.close()
    return decision


def settled():
    gate = known(quota())
    event = spendgate.usage_event("acme", "tokens", 5)
    digest = gate.redis.customer("acme").state.policy
    gate.redis.run(SETTLE, settle_arguments(event, start_us(), digest, "journal", 1))
    return gate


def corrected():
    gate = known(quota())
    given = ask(gate, 5)
    correction = Correction("c1", given.decision_id, given.decision_id, "tokens", 5, 0, "ops", "a double count")
    original = Original(given.event, given.policy, given.effective_at_us, given.stream_id)
    tag = tag_of(spendgate.keys.partition_of("acme"))
    gate.redis.run(CORRECT, [tag, "acme", *correct_arguments(original, correction, (0, 0))])
    return gate


def repaired():
    gate = known(RUNS)
    gate.redis.customer("acme").counters["concurrency:open-runs"] = OpenCounter(1)
    tag = tag_of(spendgate.keys.partition_of("acme"))
    gate.redis.run(REPAIR_RESERVED, [tag, "acme", 100, 100])
    return gate


RESTORED = {"restored"}
"""Given where Redis lost its data, which a fake has no word for; see tests/relays/test_rebuild.py."""

GIVEN = {
    "allowed": lambda: ask(known(quota())),
    "allowed_by_override": let_pass,
    "recorded": lambda: asyncio.run(known().record("acme", "tokens", 5)),
    "unknown_customer": lambda: ask(FakeGate(DENY_UNKNOWN)),
    "customer_suspended": lambda: status("suspended"),
    "customer_cancelled": lambda: status("cancelled"),
    "override_stop": lambda: stopped_by_override(known(timezone="Asia/Kolkata")),
    "model_not_allowed": lambda: ask(known(models=("claude-*", "gpt-5")), metadata={"model": "o9"}),
    "model_without_weight": lambda: ask(known(credits_without_weight(), granted=10), metadata={"model": "o9"}),
    "policy_stale": of_a_stale_policy,
    "quota_exceeded": lambda: ask(used(known(quota()), 990), 500),
    "credits_exceeded": lambda: ask(known(credits_limit(), granted=15_000_000), 2_000_000),
    "rate_exceeded": lambda: ask(used(known(rate(units=60, burst=10)), 9), 3),
    "above_burst": lambda: ask(known(rate(burst=10)), 11),
    "too_many_open": of_one_run_too_many,
    "too_many_values": of_one_value_too_many,
    "mirror_stale": of_a_stale_mirror,
    "event_too_large": lambda: ask(known(per_event()), metadata={"context_window": 9_000}),
    "committed": lambda: ended("commit", 3),
    "released": lambda: ended("release"),
    "extended": lambda: ended("extend", 600),
    "expired": lambda: overdue("release"),
    "expired_committed": lambda: overdue("commit"),
    "allowed_in_outage": lambda: in_an_outage(1),
    "outage": lambda: in_an_outage(2),
    "settled": settled,
    "corrected": corrected,
    "repaired": repaired,
    "external": outside_the_gate,
    "standing": reset,
}


def credits_without_weight():
    limit = credits_limit()
    return type(limit)(id="wallet", meters=("tokens",), weights=(type(limit.weights[0])("tokens", "gpt-*", 1),))


TOLD = {
    "allowed_by_override": "Limit tokens-day has no room, but override o-8 lets this event pass.",
    "override_stop": "Override o-7 stops this customer until 2026-01-01 06:30 Asia/Kolkata (UTC+05:30).",
    "model_not_allowed": "Plan test does not include the model o9.",
    "model_without_weight": "Limit wallet gives no credit weight for the model o9, so the event has no price.",
    "policy_stale": "The policy in force is too old: limit tokens-month does not know the current month any more.",
    "quota_exceeded": "Limit tokens-day: the event asks for 500 tokens, but only 10 tokens of 1,000 tokens are left "
    "today.",
    "credits_exceeded": "Limit wallet: the event costs 20 credits, but the balance is 15 credits.",
    "rate_exceeded": "Limit tokens-rate: the event asks for 3 tokens, but the rate of 60/min has room for 1 token now.",
    "above_burst": "Limit tokens-rate: the event asks for 11 tokens, more than the 10 tokens that this rate ever lets "
    "through at once.",
    "too_many_open": "Limit open-runs: 1 run is open already, as many as are allowed at once.",
    "too_many_values": "Limit tokens-day counts each agent_id apart, and there are already as many different ones as it "
    "keeps.",
    "mirror_stale": "The billing data is too old, and what limit tokens-day lets pass meanwhile is used up.",
    "event_too_large": "Limit context: context_window is 9,000, more than the 8,000 allowed in one event.",
}

HELPS = {
    "unknown_customer": "create the customer in the billing system, or name a plan for unknown customers in the policy "
    "document",
    "customer_suspended": "reactivate the customer in the billing system",
    "customer_cancelled": "renew the contract in the billing system",
    "override_stop": "revoke override o-7, or wait until it expires on 2026-01-01 06:30 Asia/Kolkata (UTC+05:30)",
    "model_not_allowed": "ask for a model that the plan includes (claude-*, gpt-5), or change the plan",
    "model_without_weight": "add a credit weight for this model to limit wallet in the policy document",
    "policy_stale": "run the daemon, which renews policies before their periods end",
    "quota_exceeded": "490 tokens short: ask for at most 10 tokens, or wait until 2026-01-02 00:00 UTC, when it resets",
    "credits_exceeded": "5 credits short: grant them, or ask for less",
    "rate_exceeded": "wait 2 s",
    "above_burst": "split the event into parts of at most 10 tokens",
    "too_many_open": "wait until one of them ends, or release reservations that nobody needs any more",
    "too_many_values": "use a value of agent_id that was used before, or raise max_values of limit tokens-day",
    "mirror_stale": "run the daemon and look at its connection to the billing system; it passes again once the data is "
    "fresh",
    "event_too_large": "lower context_window to at most 8,000",
    "outage": "try again in a moment; if it lasts, look at Redis",
}


def codes_in_scripts() -> set[str]:
    """Every code that a script can put into a record: after an outcome, or as the end of a reservation."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("*.lua") if path.stem != "snapshot")
    codes = set(re.findall(r"(?:'(?:allow|stop|throttle)'|\bdenies), '(\w+)'", source))
    codes |= set(re.findall(r"(?:commit|release) = '(\w+)'", source))
    return codes | {code for pair in re.findall(r"commits and '(\w+)' or '(\w+)'", source) for code in pair}


def codes_in_definition() -> set[str]:
    """What follows an outcome, and what a check gives as its reason."""
    codes = set()
    for path in (ROOT / "decide.py", *ROOT.glob("limits/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple) and len(node.elts) > 1:
                outcome, code = node.elts[:2]
                found = code if isinstance(outcome, ast.Constant) and outcome.value in OUTCOMES else None
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Check":
                named = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                found = next(iter([*named, *node.args[3:]]), None)
            else:
                continue
            if isinstance(found, ast.Constant):
                codes.add(found.value)
    return codes - set(OUTCOMES)


@pytest.mark.parametrize("code", GIVEN)
def test_a_code_is_given_and_told(code):
    given = GIVEN[code]()
    if isinstance(given, FakeGate):
        assert code in {record.result.reason for record in given.records("acme")}
        return
    assert given.reason == code
    assert given.message == TOLD.get(code, REASONS[code].sentence)
    assert (given.unblock.message if given.unblock is not None else None) == HELPS.get(code)


def test_every_code_in_the_table_can_be_given():
    assert set(GIVEN) == set(REASONS) - RESTORED


def test_every_code_that_the_scripts_give_is_in_the_table():
    assert codes_in_scripts() | {"settled", "corrected"} == set(REASONS) - IN_AN_OUTAGE


def test_every_code_of_the_definition_is_in_the_table():
    codes = codes_in_definition()
    assert codes < set(REASONS)
    given_by_scripts = {"settled", "corrected", "repaired", "external", "standing"}
    assert set(REASONS) - codes == ENDS | IN_AN_OUTAGE | RESTORED | given_by_scripts


def test_no_sentence_for_lists_has_a_number_to_fill_in():
    assert [code for code, reason in REASONS.items() if "{" in reason.in_lists] == []


def test_an_event_larger_than_the_whole_quota_is_not_told_to_wait():
    unblock = ask(known(quota(period="5h")), 1_001).unblock
    assert unblock.message == "ask for at most 1,000 tokens, all that a period of 5h has, or raise the cap"
    assert (unblock.short, unblock.resets_at_us) == (1, None)


def test_an_event_as_large_as_the_quota_is_told_when_there_is_room_for_it():
    unblock = ask(used(known(quota()), 1000), 1_000).unblock
    assert unblock.message == "1,000 tokens short: wait until 2026-01-02 00:00 UTC, when it resets"
    assert unblock.resets_at_us == start_us() + 24 * HOUR_US


def test_a_denial_names_the_other_limits_that_deny_it():
    gate = known(quota(10), rate(burst=5), quota(9, id="tokens-week", period="week", mode="shadow"), credits_limit())
    unblock = ask(gate, 11).unblock
    assert unblock.message.endswith("or raise the cap; also denied by tokens-rate, wallet")


def test_what_open_runs_hold_is_told():
    gate = known(quota(1000))
    reserve(gate, 900)
    denied = ask(gate, 101)
    assert "only 100 tokens of 1,000 tokens are left today; 900 tokens are held by runs that are still open." in (
        denied.message
    )


def test_a_counter_of_one_value_is_told_with_its_value_at_a_bearable_length():
    gate = known(quota(10, per="agent_id", max_values=9))
    denied = ask(gate, 11, metadata={"agent_id": "a" * 1000})
    assert denied.message.startswith(f"Limit tokens-day for agent_id={'a' * 80}…: the event asks for 11 tokens")


def test_people_read_the_customers_time_and_machines_utc():
    gate = known(quota(10), timezone="America/New_York")
    denied = ask(used(gate, 10))
    assert denied.unblock.message.endswith("wait until 2026-01-01 19:00 America/New_York (UTC-05:00), when it resets")
    assert denied.answer()["unblock"]["resets_at"] == "2026-01-02T00:00:00Z"


@pytest.mark.parametrize(
    ("instant", "zone", "text"),
    [
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Berlin", "2026-10-25 02:30 Europe/Berlin (UTC+02:00)"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Berlin", "2026-10-25 02:30 Europe/Berlin (UTC+01:00)"),
        (datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "UTC", "2026-01-01 00:00:01 UTC"),
        (datetime(2026, 1, 1, tzinfo=UTC), "Mars/Olympus", "2026-01-01 00:00 UTC"),
        (datetime(2026, 1, 1, tzinfo=UTC), "Europe", "2026-01-01 00:00 UTC"),
        (datetime(2026, 1, 1, tzinfo=UTC), "../../etc/passwd", "2026-01-01 00:00 UTC"),
    ],
)
def test_local_time(instant, zone, text):
    instant_us = int(instant.timestamp()) * 1_000_000 + instant.microsecond
    assert local_text(instant_us, zone) == text
