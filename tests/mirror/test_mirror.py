"""The mirror against a real sandbox: what UsageBox says becomes what is enforced, and never goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from prometheus_client import REGISTRY

from mirror_world import DOCUMENT, now_us
from spendgate.errors import SpendgateError
from spendgate.keys import PARTITIONS, partition_of, tag_of
from spendgate.limits.check import Grant
from spendgate_daemon.api.provenance import provenance_of
from spendgate_daemon.documents import load_document
from spendgate_daemon.mirror.customers_file import CustomersFile
from spendgate_daemon.mirror.policy_book import DocumentFile, stored_document
from spendgate_daemon.mirror.poll import Poll
from spendgate_daemon.mirror.terms import CustomerTerms
from spendgate_daemon.usagebox import UsageBox, UsageBoxError

LOCAL = """  local:
    limits:
      - {{kind: quota, id: month, meter: tokens, cap: {cap}, period: month, anchor_day: contract, timezone: contract}}
"""


def test_a_poll_brings_what_changed_and_says_so_once(world):
    world.put(name="Acme", plan="basic", caps={"tokens": 100})
    assert world.run(world.poll.poll_once()) == 1
    assert world.run(world.poll.poll_once()) == 0
    state = world.snapshot().state
    assert (state.plan, state.version, state.source, state.caps) == ("basic", 1, "usagebox", {"tokens": 100})
    assert world.snapshot().mirrored_at_us > 0
    assert world.decide(101).outcome == "stop"
    world.put(caps={"tokens": 200})
    assert world.run(world.poll.poll_once()) == 1
    assert world.decide(101).outcome == "allow"
    world.put(status="suspended")
    world.run(world.poll.poll_once())
    assert world.decide(1).reason == "customer_suspended"


def test_a_decision_cites_a_policy_that_the_store_has(world):
    world.put(plan="basic", caps={"tokens": 100})
    world.run(world.poll.poll_once())
    assert world.store.policies.effective(world.decide(1).record.policy) is not None


def test_an_older_version_is_passed_over(world):
    terms = CustomerTerms(customer_id="acme", name="Acme", plan="basic", caps={"tokens": 9}, version=5)
    assert world.run(world.applier.apply("usagebox", [terms])) == 1
    old = CustomerTerms(customer_id="acme", name="Acme", plan="basic", caps={"tokens": 1}, version=4)
    assert world.run(world.applier.apply("usagebox", [old])) == 0
    assert world.snapshot().policy.limits[0].cap == 9
    assert world.store.customers.get("acme").customer.version == 5


def test_a_contract_of_no_zone_and_no_day_leaves_what_was_in_force(world):
    good = CustomerTerms(customer_id="acme", name="Acme", plan="basic", caps={"tokens": 9}, timezone="Asia/Tokyo")
    assert world.run(world.applier.apply("usagebox", [good])) == 1
    for bad in ({"timezone": "Mars/Base"}, {"billing_anchor_day": 32}, {"grants": (Grant("g", 10**16),)}):
        terms = msgspec.structs.replace(good, caps={"tokens": 1}, **bad)
        assert world.run(world.applier.apply("usagebox", [terms])) == 0
    assert world.snapshot().policy.limits[0].cap == 9


@pytest.mark.parametrize(
    "bad",
    [
        {"customer_id": ""},
        {"customer_id": "a\0b"},
        {"customer_id": "x" * 257},
        {"plan": "a\0b"},
        {"version": 2**63},
        {"version": -1},
        {"caps": {"tokens": 2**63}},
        {"caps": {"tokens": -5}},
        {"credits_granted_total": 10**10},
    ],
)
def test_terms_that_make_no_sense_hold_up_nobody(world, bad):
    def refused():
        return REGISTRY.get_sample_value("spendgate_mirror_bad_contracts_total")

    def terms(**fields):
        return CustomerTerms(**{"name": "N", "plan": "basic", "caps": {"tokens": 9}, "version": 3} | fields)

    before = refused()
    given = [terms(customer_id="before"), terms(**{"customer_id": "bad"} | bad), terms(customer_id="behind")]
    assert world.run(world.applier.apply("usagebox", given)) == 2
    assert sorted(world.store.customers.known(["before", "bad", "behind"])) == ["before", "behind"]
    assert world.decide(9, customer="behind").allowed
    assert refused() == before + 1


def test_a_name_is_for_reading_and_may_be_anything(world):
    terms = [CustomerTerms(customer_id="acme", name="a\0b" * 10_000, plan="basic", caps={"tokens": 9}, version=3)]
    assert world.run(world.applier.apply("usagebox", terms)) == 1
    assert world.store.customers.get("acme").customer.name == "ab" * 10_000


def test_a_contract_survives_a_recompile_of_its_document(world):
    terms = CustomerTerms(
        customer_id="acme", name="Acme", plan="local", timezone="Asia/Tokyo", billing_anchor_day=15,
        grants=(Grant("b", 5), Grant("a", 5)),
    )  # fmt: skip
    world.book.replace(load_document(DOCUMENT + LOCAL.format(cap=7)))
    assert world.run(world.applier.apply("admin", [terms])) == 1
    assert world.run(world.applier.apply("admin", [msgspec.structs.replace(terms, grants=terms.grants[::-1])])) == 0
    window = world.snapshot().policy.limits[0].window
    world.book.replace(load_document(DOCUMENT + LOCAL.format(cap=8)))
    assert world.run(world.applier.recompile()) == 1
    snapshot = world.snapshot()
    assert (snapshot.policy.limits[0].cap, snapshot.policy.limits[0].window) == (8, window)
    assert snapshot.policy.timezone == "Asia/Tokyo"
    assert snapshot.state.grants == (Grant("a", 5), Grant("b", 5))


def test_usage_outside_the_gate_is_no_part_of_a_limit_of_some_of_the_use(world):
    parts = """  parts:
    limits:
      - {kind: quota, id: all, meter: tokens, cap: 1000, period: month}
      - {kind: quota, id: some, meter: tokens, cap: 1000, period: month, match: {region: eu}}
      - {kind: quota, id: each, meter: tokens, cap: 1000, period: month, per: agent_id}
"""
    world.book.replace(load_document(DOCUMENT + parts))
    world.put(plan="parts")
    world.run(world.poll.poll_once())
    world.used_elsewhere(600)
    world.person.post("/sandbox/v1/rollups/rebuild")
    world.run(world.totals.read_once())
    assert {line.id: line.external for line in world.snapshot().limits()} == {"all": 600, "some": 0, "each": 0}


def test_sources_have_an_order(world, tmp_path):
    file = tmp_path / "customers.yaml"
    file.write_text("customers: {acme: {plan: basic, caps: {tokens: 1}}}\n")
    customers_file = CustomersFile(file, world.applier)
    assert world.run(customers_file.read_once()) == 1
    assert world.run(customers_file.read_once()) == 0
    assert world.snapshot().state.source == "customers.yaml"
    world.put(plan="basic", caps={"tokens": 2})
    world.run(world.poll.poll_once())
    assert (world.snapshot().state.source, world.snapshot().policy.limits[0].cap) == ("usagebox", 2)
    file.write_text("customers: {acme: {plan: basic, caps: {tokens: 33}}}\n")
    assert world.run(customers_file.read_once()) == 0, "the weaker source is silent now"
    file.write_text("customers: [what")
    assert world.run(customers_file.read_once()) == 0, "a broken file changes nothing"


def test_a_plan_that_the_document_lacks_leaves_what_was_in_force(world):
    world.put(plan="basic", caps={"tokens": 100})
    world.run(world.poll.poll_once())
    world.put(plan="gold")
    world.run(world.poll.poll_once())
    assert world.snapshot().state.plan == "basic"


def test_usage_outside_the_gate_counts_and_our_own_is_not_counted_twice(world):
    world.put(plan="basic", caps={"tokens": 1000})
    world.run(world.poll.poll_once())
    world.decide(100)
    world.used_elsewhere(600)
    world.used_elsewhere(100, event_id="own", source="spendgate/test")
    world.used_elsewhere(5000, event_id="long ago", at=datetime.now(UTC) - timedelta(days=70))
    world.person.post("/sandbox/v1/rollups/rebuild")
    assert world.run(world.totals.read_once()) == 1
    line = world.snapshot().limits()[0]
    assert (line.used, line.external, line.remaining) == (100, 600, 300)
    [total] = world.store.usage.totals("acme")
    assert (total.own, total.external) == (100, 600)
    points = world.store.usage.series("acme", "tokens", 0, 2**40, 3600)
    assert sum(point.external for point in points) == 600
    assert world.decide(301).outcome == "stop"
    assert world.decide(300).customer_state == "stopped"


def test_credits_used_outside_the_gate_are_weighted_by_model(world):
    world.put(plan="prepaid", credits_granted_total=100)
    world.run(world.poll.poll_once())
    world.used_elsewhere(10, model="big-1", at=datetime.now(UTC))
    world.used_elsewhere(10, model="small", event_id="x2")
    world.run(world.totals.read_once())
    assert world.snapshot().limits()[0].remaining == 70_000_000
    world.person.post("/sandbox/v1/customers/acme/credits", json={"amount": 5})
    world.run(world.poll.poll_once())
    assert world.snapshot().limits()[0].remaining == 75_000_000


def test_a_hint_polls_at_once_and_an_unknown_customer_is_remembered_as_such(world):
    world.put("new", plan="basic", caps={"tokens": 5})
    assert world.decide(1, customer="new").reason == "unknown_customer"
    assert world.decide(1, customer="ghost").reason == "unknown_customer"
    assert world.run(world.poll.follow_hints_once()) == 2
    assert world.decide(1, customer="new").allowed
    assert world.snapshot("ghost").state.status == "unknown"
    before = len(world.run(world.control.read_hints(dict.fromkeys(range(PARTITIONS), "0-0"))))
    world.decide(1, customer="ghost")
    assert len(world.run(world.control.read_hints(dict.fromkeys(range(PARTITIONS), "0-0")))) == before
    world.put("ghost", plan="basic", caps={"tokens": 5})
    world.run(world.poll.poll_once())
    assert world.decide(1, customer="ghost").allowed


def test_that_nobody_knows_a_customer_is_forgotten_and_what_makes_him_known_is_not(world):
    def kept_seconds(customer):
        return world.run(world.control.redis.ttl(f"{tag_of(partition_of(customer))}state:{customer}"))

    class KnownMeanwhile:
        """The gate; somebody makes the customer known between its answer and what is made of it."""

        async def snapshots(self, customer_ids):
            found = await world.gate.snapshots(customer_ids)
            await world.applier.apply("admin", [CustomerTerms(customer_id="new", name="New", plan="basic", version=0)])
            return found

    poll = Poll(world.control, KnownMeanwhile(), world.store, world.usagebox, world.applier, now_us)
    world.decide(1, customer="new")
    world.decide(1, customer="ghost")
    world.run(poll.follow_hints_once())
    assert (world.snapshot("new").state.status, kept_seconds("new")) == ("active", -1)
    assert world.snapshot("ghost").state.status == "unknown"
    assert 3500 < kept_seconds("ghost") <= 3600
    world.put("ghost", plan="basic")
    world.run(world.poll.poll_once())
    assert (world.snapshot("ghost").state.status, kept_seconds("ghost")) == ("active", -1)


def test_a_usagebox_that_is_away_stops_nobody(world, run, control, gate):
    world.put(plan="basic", caps={"tokens": 100})
    world.run(world.poll.poll_once())
    away = UsageBox("http://127.0.0.1:1", None, timeout_seconds=0.5)
    poll = Poll(control, gate, world.store, away, world.applier, now_us)
    with pytest.raises(UsageBoxError):
        run(poll.poll_once())
    run(away.aclose())
    assert world.decide(1).allowed
    assert "UsageBoxUnavailable" in world.store.cursors.get("mirror.status")


def test_a_stored_document_that_this_version_refuses_is_none(world):
    world.store.policies.save_document("old", DOCUMENT.replace("period: month", "period: fortnight"), now_us())
    assert stored_document(world.store) is None


def test_a_broken_document_never_replaces_a_good_one(world, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(DOCUMENT)
    file = DocumentFile(path)
    assert file.changed().digest == world.book.document.digest
    assert file.changed() is None
    path.write_text(DOCUMENT.replace("cap: contract", "cap: lots"))
    assert file.changed() is None
    path.write_text(DOCUMENT.replace("cap: contract", "cap: 7"))
    world.put(plan="basic", caps={"tokens": 100})
    world.run(world.poll.poll_once())
    assert world.book.replace(file.changed())
    assert world.run(world.applier.recompile()) == 1
    assert world.decide(8).outcome == "stop"
    with pytest.raises(SpendgateError):
        world.run(world.gate.decide("acme", "nope", 1))


def test_each_number_says_where_it_comes_from_its_version_and_its_age(world):
    world.put(plan="basic", caps={"tokens": 1000})
    world.run(world.poll.poll_once())
    world.used_elsewhere(7)
    world.run(world.totals.read_once())

    def rows():
        found, totals = world.store.customers.get("acme"), world.store.usage.totals("acme")
        return {row["number"]: row for row in provenance_of(found, world.snapshot(), totals)}

    terms, outside, billed = "plan, status, caps, credits granted", "outside the gate, month", "billed, tokens"
    first = rows()
    assert (first[terms]["source"], first[terms]["version"]) == ("usagebox", "1")
    assert (first["limits in force"]["source"], first["used, reserved, left, state"]["source"]) == (
        "policy document", "this gate",
    )  # fmt: skip
    assert first[outside]["source"] == first[billed]["source"] == "UsageBox"
    assert 0 <= first[outside]["age_seconds"] < 20
    world.run(world.poll.poll_once())
    assert rows()[terms]["as_of"] > first[terms]["as_of"], "compared again, with nothing changed"
    assert rows()[outside]["as_of"] == first[outside]["as_of"]
    world.put(caps={"tokens": 9})
    world.run(world.poll.poll_once())
    assert rows()[terms]["version"] == "2"
