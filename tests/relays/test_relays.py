"""From the outbox to the store, and from the store to UsageBox: once, in order, whatever is killed or refused."""

from __future__ import annotations

import time

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from house import House, policy_of, quota
from serving import serve
from spendgate.keys import PARTITIONS
from spendgate.record import decode_record
from spendgate.state import Override
from spendgate_daemon.overrides import begin_event, mirror_overrides
from spendgate_daemon.relays.advice import Advice, advice_of
from spendgate_daemon.relays.burn import BurnMeter, exhausts_at_us
from spendgate_daemon.relays.extract import extract
from spendgate_daemon.relays.store_relay import POLICY_SINK, StoreRelay
from spendgate_daemon.relays.sweep import OverrideExpiry, Sweep
from spendgate_daemon.relays.usagebox_policies import UsageBoxPolicyRelay
from spendgate_daemon.relays.usagebox_usage import UsageBoxUsageRelay
from spendgate_daemon.relays.verifier import Verifier
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.store.customers import Customer
from spendgate_daemon.store.overrides import StoredOverride
from spendgate_daemon.store.schema import metadata
from spendgate_daemon.usagebox import BatchResult, UsageBox, UsageBoxRefused, UsageBoxUnavailable


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    yield made
    made.close()


def drain(run, relay) -> int:
    total = 0
    while done := run(relay.run_once()):
        total += done
    return total


def test_the_migrations_lead_to_the_schema(store):
    with store.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        differences = [each for each in compare_metadata(context, metadata) if each[0] != "remove_index"]
    assert differences == []
    assert store.database.revisions() == ("0012", "0012")


def test_every_record_is_stored_once_and_the_outbox_is_trimmed(store, house, run, control):
    house.contract(policy_of(quota(1000)))
    decisions = [house.decide(30) for _ in range(40)]
    relay = StoreRelay(control, store)
    assert drain(run, relay) == 40
    assert run(control.outbox_length()) == 0
    page = store.decisions.page(limit=200)
    assert [item.decision_id for item in page.items] == [decision.decision_id for decision in decisions][::-1]
    assert store.usage.total("acme", "tokens", 0, 2**62) == 33 * 30
    kinds = [event.kind for event in store.guardrail_events.page(limit=50).items]
    assert kinds == ["threshold_crossed"]
    points = store.usage.series("acme", "tokens", 0, 2**40, 3600)
    assert (sum(point.used for point in points), sum(point.denied for point in points)) == (990, 7)


def test_a_relay_killed_between_commit_and_trim_repeats_nothing(store, house, run, control):
    house.contract(policy_of(quota(1000)))
    for _ in range(10):
        house.decide(1)
    records = run(control.read_outbox(dict.fromkeys(range(PARTITIONS), "0-0"), 100))

    class Killed(Exception):
        pass

    class KilledControl:
        def __getattr__(self, name):
            return getattr(control, name)

        async def trim_outbox(self, partition, stream_id, record):
            raise Killed

    with pytest.raises(Killed):
        run(StoreRelay(KilledControl(), store).run_once())
    assert len(run(control.read_outbox(dict.fromkeys(range(PARTITIONS), "0-0"), 100))) == len(records) == 10
    assert drain(run, StoreRelay(control, store)) == 0, "the cursor was in the transaction"
    assert run(control.outbox_length()) == 0, "what the cursor covers is trimmed at the next start"
    # Even with a lost cursor the rows and rollups are the same.
    relay = StoreRelay(control, store)
    house.decide(1)
    run(relay.run_once())
    assert store.usage.total("acme", "tokens", 0, 2**62) == 11


def test_a_batch_that_was_stored_before_changes_nothing(store, house, run, control):
    house.contract(policy_of(quota(1000)))
    house.decide(900)
    entries = run(control.read_outbox(dict.fromkeys(range(PARTITIONS), "0-0"), 100))
    relay = StoreRelay(control, store)
    drain(run, relay)
    before = store.usage.series("acme", "tokens", 0, 2**40, 3600)
    policy = store.policies.effective(decode_record(entries[0][2]).policy)
    again = extract(
        house.decide(1, dry_run=True).decision_id or f"d{entries[0][0]:03d}-{entries[0][1]}",
        decode_record(entries[0][2]),
        policy,
        entries[0][2],
    )
    relay._write([again], {})
    assert store.usage.series("acme", "tokens", 0, 2**40, 3600) == before
    assert len(store.guardrail_events.page(limit=50).items) == 1


def test_a_lost_record_is_counted_as_a_gap(store, house, run, control, redis_url):
    from spendgate_daemon.relays.metrics import GAPS

    house.contract(policy_of(quota(1000)))
    relay = StoreRelay(control, store)
    house.decide(1)
    drain(run, relay)
    before = GAPS._value.get()
    lost = house.decide(1)
    partition, stream_id = int(lost.decision_id[1:4]), lost.decision_id[5:]
    house.redis.xdel(f"sg:{{p{partition:03d}}}:outbox", stream_id)
    house.decide(1)
    drain(run, relay)
    assert GAPS._value.get() == before + 1


def test_the_verifier_agrees_and_a_tampered_record_is_marked(store, house, run, control):
    house.contract(policy_of(quota(1000)))
    good, bad = house.decide(10), house.decide(20)
    drain(run, StoreRelay(control, store))
    with store.database.writing() as connection:
        from spendgate_daemon.store.schema import decisions

        raw = store.decisions.get(bad.decision_id).record
        tampered = raw.replace(b"\xa5allow", b"\xa4stop")
        assert tampered != raw
        connection.execute(decisions.update().where(decisions.c.decision_id == bad.decision_id).values(record=tampered))
    drain(run, Verifier(store))
    assert store.decisions.get(good.decision_id).verified is True
    assert store.decisions.get(bad.decision_id).verified is False
    assert store.decisions.mismatches() == 1


def test_usage_reaches_usagebox_once_and_a_poison_event_holds_up_nobody(store, house, run, control, tmp_path):
    house.contract(policy_of(quota(10_000)))
    for quantity in range(1, 31):
        house.decide(quantity)
    drain(run, StoreRelay(control, store))
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None)) as url:
        box = UsageBox(url, None)
        relay = UsageBoxUsageRelay(store, box, "spendgate/test", now_us)
        poison = store.usage.by_positions([5])[0]
        foreign = relay._event(poison)
        run(
            box.send_usage(
                [type(foreign)(**{f: getattr(foreign, f) for f in foreign.__struct_fields__} | {"quantity": 999})]
            )
        )
        assert drain(run, relay) == 30
        [sink] = [sink for sink in store.deliveries.sinks() if sink.sink == "usagebox.usage"]
        assert (sink.delivered, sink.dead, sink.pending, sink.attempted) == (29, 1, 0, 0)
        assert "conflict" in sink.error
        again = run(box.send_usage([relay._event(row) for row in store.usage.by_positions(list(range(6, 31)))]))
        assert again == BatchResult(0, 25, 0, 0), "byte-identical on retry"
        run(box.aclose())


def test_a_usagebox_that_is_away_costs_nothing_but_time(store, house, run, control, tmp_path):
    house.contract(policy_of(quota(10_000)))
    house.decide(5)
    drain(run, StoreRelay(control, store))
    clock = [now_us()]

    async def scenario():
        async with UsageBox("http://127.0.0.1:1", None, timeout_seconds=1) as away:
            relay = UsageBoxUsageRelay(store, away, "spendgate/test", lambda: clock[0])
            return [await relay.run_once() for _ in range(3)]

    assert run(scenario()) == [0, 0, 0]
    [sink] = store.deliveries.sinks()
    assert (sink.attempted, sink.dead) == (1, 0)
    assert "UsageBoxUnavailable" in sink.error
    clock[0] += 120_000_000
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None)) as url:

        async def back():
            async with UsageBox(url, None) as box:
                return await UsageBoxUsageRelay(store, box, "spendgate/test", lambda: clock[0]).run_once()

        assert run(back()) == 1


def test_policy_events_are_coalesced_to_where_the_customer_stands(store, house, run, control):
    told = []

    class Box:
        async def raise_flag(self, customer_id, policy, **fields):
            told.append(("raised", customer_id, fields["idempotency_key"]))

        async def clear_flag(self, customer_id, policy, **fields):
            told.append(("cleared", customer_id, fields["idempotency_key"]))

    house.contract(policy_of(quota(10)))
    house.decide(10)
    drain(run, StoreRelay(control, store))
    relay = UsageBoxPolicyRelay(store, Box(), now_us)
    assert drain(run, relay) == 1
    house.contract(policy_of(quota(20)), version=2)
    house.decide(10)
    house.contract(policy_of(quota(30)), version=3)
    drain(run, StoreRelay(control, store))
    assert drain(run, relay) == 3
    assert [(kind, customer) for kind, customer, _ in told] == [("raised", "acme"), ("cleared", "acme")]

    class Away(Box):
        async def raise_flag(self, customer_id, policy, **fields):
            raise UsageBoxUnavailable("gone")

    house.decide(10)
    drain(run, StoreRelay(control, store))
    assert drain(run, UsageBoxPolicyRelay(store, Away(), now_us)) == 0
    later = lambda: now_us() + 60_000_000  # noqa: E731
    assert drain(run, UsageBoxPolicyRelay(store, Box(), later)) == 1


def test_a_usagebox_without_policies_is_nobody_to_tell(store, house, run, control, tmp_path):
    house.contract(policy_of(quota(10)))
    house.decide(10)
    drain(run, StoreRelay(control, store))
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None, dialect="usagedb")) as url:

        async def told():
            async with UsageBox(url, None) as box:
                return await UsageBoxPolicyRelay(store, box, now_us).run_once()

        assert run(told()) == 1
    (sink,) = (each for each in store.deliveries.sinks() if each.sink == POLICY_SINK)
    assert (sink.delivered, sink.attempted, sink.dead) == (1, 0, 0)


def test_one_that_has_policies_and_not_the_customer_is(store, house, run, control):
    class Box:
        async def raise_flag(self, *_arguments, **_fields):
            raise UsageBoxRefused("404 no such customer", 404)

        async def policies(self, _updated_since):
            return [], "0"

    house.contract(policy_of(quota(10)))
    house.decide(10)
    drain(run, StoreRelay(control, store))
    assert run(UsageBoxPolicyRelay(store, Box(), now_us).run_once()) == 0
    (sink,) = (each for each in store.deliveries.sinks() if each.sink == POLICY_SINK)
    assert (sink.delivered, sink.attempted) == (0, 1)


def customer_row(customer_id="acme") -> Customer:
    return Customer(
        customer_id=customer_id,
        name="Acme",
        plan="test",
        status="active",
        version=1,
        source="usagebox",
        policy_digest="x",
        updated_at_us=1,
    )


def test_gateways_find_advice_and_lists_find_the_observation(store, house, run, control, gate):
    house.contract(policy_of(quota(100)))
    store.customers.save([customer_row()])
    house.decide(100)
    advice = Advice(gate, control, store, BurnMeter())
    advice.touch({"acme", "nobody"})
    assert drain(run, advice) == 2
    told = {name.decode(): value.decode() for name, value in house.redis.hgetall("sg:advice:acme").items()}
    assert (told["state"], told["remaining.tokens-day"], told["remaining_tokens"]) == ("stopped", "0", "0")
    assert int(told["until"]) % 86_400 == 0
    assert not house.redis.exists("sg:advice:nobody")
    listed = store.customers.get("acme")
    assert (listed.state, listed.tightest.used, listed.tightest.limit) == ("stopped", 100, 100)
    assert store.customers.counts(now_us())["stopped"] == 1
    assert advice_of(run(gate.snapshot("acme")))["state"] == "stopped"


def test_burn_is_claimed_only_when_it_was_seen(house, run, gate):
    house.contract(policy_of(quota(1000)))
    house.decide(100)
    line = run(gate.snapshot("acme")).limits()[0]
    burn = BurnMeter()
    burn.observe("acme", line, 0)
    assert burn.per_hour("acme", line, 1_000_000) is None
    house.decide(100)
    later = run(gate.snapshot("acme")).limits()[0]
    burn.observe("acme", later, 60_000_000)
    per_hour = burn.per_hour("acme", later, 60_000_000)
    assert per_hour == 6000
    assert exhausts_at_us(later, per_hour, 60_000_000) == 60_000_000 + 800 * 3_600_000_000 // 6000
    assert exhausts_at_us(later, None, 0) is None


def test_the_first_reading_of_use_elsewhere_is_history_and_no_burn(house, run, gate, control):
    house.contract(policy_of(quota(10**9)))
    burn = BurnMeter()
    house.decide(100)
    line = run(gate.snapshot("acme")).limits()[0]
    burn.observe("acme", line, 0)
    run(control.put_external("acme", "tokens-day", line.period_start_seconds, 10**8, 1))
    read = run(gate.snapshot("acme")).limits()[0]
    burn.observe("acme", read, 60_000_000)
    assert burn.per_hour("acme", read, 60_000_000) is None
    house.decide(100)
    later = run(gate.snapshot("acme")).limits()[0]
    burn.observe("acme", later, 120_000_000)
    assert burn.per_hour("acme", later, 120_000_000) == 6000


def test_the_sweep_resumes_a_customer_who_stays_away(house, run, control, redis_url):
    """Time can't be waited for: an override that ends in a moment stands for a period that does."""
    house.contract(policy_of(quota(1000)))
    until_us = run(house.gate.snapshot("acme")).now_us + 300_000
    run(control.put_overrides("acme", [Override("o1", "stop", until_us)], 1))
    assert house.decide(1).customer_state == "stopped"
    sweep = Sweep(control)
    while not any(r.kind == "standing" and r.result.state_after == "ok" for r in house.records()):
        run(sweep.run_once())
    states = [(r.standing.state, r.result.state_after) for r in house.records() if r.kind == "standing"]
    assert states == [("ok", "stopped"), ("stopped", "ok")]
    assert run(sweep.run_once()) == 0


def test_the_end_of_an_override_is_told_once(store, house, run, control):
    house.contract(policy_of(quota(10)))
    made = StoredOverride(
        id="ovr_1",
        request_key=None,
        customer_id="acme",
        kind="let_pass",
        max_units=5,
        bypass=("*",),
        reason="because we said so",
        paid_by="goodwill",
        created_by="alex",
        created_at_us=1,
        expires_at_us=now_us() + 3_600_000_000,
    )
    store.overrides.create(made, begin_event(made))
    assert run(mirror_overrides(control, store, "acme", now_us()))
    expiry = OverrideExpiry(control, store, lambda: made.expires_at_us)
    assert run(expiry.run_once()) == 1
    assert run(expiry.run_once()) == 0
    assert [event.kind for event in store.guardrail_events.page(limit=9).items] == ["override_off", "override_on"]
    assert run(house.gate.snapshot("acme")).overrides == ()
