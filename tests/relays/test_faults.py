"""What goes wrong on the way, and what it may cost: never a record, and never anybody else's time."""

from __future__ import annotations

import time

import pytest

from house import House, policy_of, quota
from spendgate.keys import partition_of
from spendgate.state import Override
from spendgate_daemon.relays.advice import Advice
from spendgate_daemon.relays.burn import BurnMeter
from spendgate_daemon.relays.metrics import HELD, LOST_TAILS
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.relays.usagebox_policies import UsageBoxPolicyRelay
from spendgate_daemon.relays.usagebox_usage import TRIES, UsageBoxUsageRelay
from spendgate_daemon.store.customers import Burn, Customer, Observation
from spendgate_daemon.usagebox import BatchResult, UsageBoxRefused, UsageBoxUnavailable

OTHER = next(f"other-{n}" for n in range(1000) if partition_of(f"other-{n}") != partition_of("acme"))


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    for customer in ("acme", OTHER):
        made.contract(policy_of(quota(10_000)), customer=customer)
    yield made
    made.close()


class Clock:
    def __init__(self):
        self.us = time.time_ns() // 1000

    def __call__(self):
        return self.us

    def forward(self, seconds=120):
        self.us += seconds * 1_000_000


class UsageSink:
    """A UsageBox that remembers what it took; `refuses` says which events it does not like, and how."""

    def __init__(self, refuses):
        self.refuses, self.taken, self.calls = refuses, [], 0

    async def send_usage(self, events):
        self.calls += 1
        error = self.refuses(events)
        if error is not None:
            raise error
        self.taken += events
        return BatchResult(len(events), 0, 0, 0)

    async def period(self, account_id, month):
        raise UsageBoxRefused("404 no such thing", 404)


def drain(run, relay):
    total = 0
    while done := run(relay.run_once()):
        total += done
    return total


def stored(run, control, store, house, quantities):
    for quantity in quantities:
        house.decide(quantity)
    drain(run, StoreRelay(control, store))


def outbox(customer):
    return f"sg:{{p{partition_of(customer):03d}}}:outbox"


def test_a_record_that_cannot_be_read_holds_up_its_own_partition_only(store, house, run, control):
    relay = StoreRelay(control, store)
    house.decide(1)
    drain(run, relay)
    last = house.redis.hget(f"sg:{{p{partition_of('acme'):03d}}}:meta", "epoch").decode()
    house.redis.xadd(outbox("acme"), {"r": b"\xc1"}, id=f"{last}-2")
    house.decide(1, customer=OTHER)
    assert run(relay.run_once()) == 1
    assert HELD._value.get() == 1
    assert run(relay.run_once()) == 0
    assert house.redis.xlen(outbox("acme")) == 2, "it stays where it is, after the last that is stored"
    assert store.usage.total(OTHER, "tokens", 0, 2**62) == 1


def test_a_redis_that_forgot_its_tail_is_noticed_and_nothing_of_it_is_trimmed(store, house, run, control):
    for _ in range(3):
        house.decide(1)
    drain(run, StoreRelay(control, store))
    house.redis.hset(f"sg:{{p{partition_of('acme'):03d}}}:meta", "seq", "1")
    house.redis.delete(outbox("acme"))  # as a failover leaves it: the stream's last id is forgotten, too
    house.decide(1)
    house.decide(1, customer=OTHER)
    relay = StoreRelay(control, store)
    assert run(relay.run_once()) == 1
    assert LOST_TAILS._value.get() == 1
    assert house.redis.xlen(outbox("acme")) == 1, "decided since, and not stored yet"
    house.redis.hset(f"sg:{{p{partition_of('acme'):03d}}}:meta", mapping={"epoch": str(2 * 10**12), "seq": "0"})
    house.decide(7)
    again = StoreRelay(control, store)
    assert run(again.run_once()) == 1
    assert LOST_TAILS._value.get() == 0


def test_a_model_that_postgresql_cannot_hold_stops_nobody(store, house, run, control):
    house.decide(1, metadata={"model": "gpt\x00"})
    house.decide(2)
    assert drain(run, StoreRelay(control, store)) == 2
    assert [row.model for row in store.usage.by_positions([1, 2])] == ["gpt", None]


def test_an_event_that_is_refused_with_its_batch_dies_after_its_tries_and_holds_up_nobody(store, house, run, control):
    stored(run, control, store, house, range(1, 31))
    box = UsageSink(lambda events: UsageBoxRefused("422 bad", 422) if any(e.quantity == 1 for e in events) else None)
    clock = Clock()
    relay = UsageBoxUsageRelay(store, box, "spendgate/test", clock)
    assert run(relay.run_once()) == 29
    assert sorted(event.quantity for event in box.taken) == list(range(2, 31))
    for tries in range(2, TRIES):
        clock.forward()
        assert run(relay.run_once()) == 0, tries
    clock.forward()
    assert run(relay.run_once()) == 1
    [sink] = store.deliveries.sinks()
    assert (sink.delivered, sink.dead) == (29, 1)
    assert "422 bad" in sink.error


@pytest.mark.parametrize("status", [401, 422])
def test_a_usagebox_that_refuses_everybody_kills_nobody(store, house, run, control, status):
    stored(run, control, store, house, [1] * 60)
    box = UsageSink(lambda events: UsageBoxRefused("no", status))
    clock = Clock()
    relay = UsageBoxUsageRelay(store, box, "spendgate/test", clock)
    for _ in range(TRIES * 2):
        assert run(relay.run_once()) == 0
        clock.forward()
    [sink] = store.deliveries.sinks()
    assert (sink.attempted, sink.dead) == (60, 0)
    box.refuses = lambda events: None
    assert run(relay.run_once()) == 60


def test_a_sink_that_asks_for_time_gets_it(store, house, run, control):
    stored(run, control, store, house, [1])
    box = UsageSink(lambda events: UsageBoxUnavailable("429", retry_after_seconds=300))
    clock = Clock()
    relay = UsageBoxUsageRelay(store, box, "spendgate/test", clock)
    run(relay.run_once())
    clock.forward(299)
    run(relay.run_once())
    assert box.calls == 1
    clock.forward(2)
    run(relay.run_once())
    assert box.calls == 2


def test_an_older_change_is_never_told_after_a_newer_one(store, house, run, control):
    told, clock = [], Clock()

    class Box:
        away = True

        async def raise_flag(self, customer_id, policy, **fields):
            if self.away:
                raise UsageBoxUnavailable("gone")
            told.append("raised")

        async def clear_flag(self, customer_id, policy, **fields):
            told.append("cleared")

    box = Box()
    relay = UsageBoxPolicyRelay(store, box, clock)
    house.decide(10_000)
    drain(run, StoreRelay(control, store))
    assert run(relay.run_once()) == 0
    house.contract(policy_of(quota(20_000)), version=2)
    drain(run, StoreRelay(control, store))
    box.away = False
    clock.forward(1)
    assert run(relay.run_once()) == 2, "the newer settles the older"
    clock.forward()
    assert run(relay.run_once()) == 0
    assert told == ["cleared"]


def test_a_dead_change_that_is_tried_again_tells_where_the_customer_stands_now(store, house, run, control):
    told = []

    class Box:
        async def raise_flag(self, customer_id, policy, **fields):
            told.append(("raised", fields["idempotency_key"]))

        async def clear_flag(self, customer_id, policy, **fields):
            told.append(("cleared", fields["idempotency_key"]))

    house.decide(10_000)
    drain(run, StoreRelay(control, store))
    [stop] = store.deliveries.waiting("usagebox.policy", 9)
    store.deliveries.mark("usagebox.policy", [stop.position], "dead", error="422")
    house.contract(policy_of(quota(20_000)), version=2)
    drain(run, StoreRelay(control, store))
    relay = UsageBoxPolicyRelay(store, Box(), Clock())
    assert run(relay.run_once()) == 1
    assert store.dead_letters.retry("usagebox.policy") == 1
    assert run(relay.run_once()) == 1
    assert told == [told[0]] * 2, "the same word again, under the same key"
    assert told[0][0] == "cleared"


def test_a_policy_event_that_is_refused_dies_after_its_tries(store, house, run, control):
    class Box:
        async def raise_flag(self, customer_id, policy, **fields):
            raise UsageBoxRefused("422 no such customer", 422)

    house.decide(10_000)
    drain(run, StoreRelay(control, store))
    clock = Clock()
    relay = UsageBoxPolicyRelay(store, Box(), clock)
    ended = []
    for _ in range(5):
        ended.append(run(relay.run_once()))
        clock.forward()
    assert ended == [0, 0, 0, 0, 1]


def customer_row(customer_id):
    fields = {"plan": "p", "status": "active", "version": 1, "source": "usagebox", "policy_digest": "x"}
    return Customer(customer_id=customer_id, name=customer_id, updated_at_us=1, **fields)


def test_advice_is_given_in_the_order_of_the_first_touch_and_survives_a_failure(store, house, run, control, gate):
    class Failing:
        async def snapshots(self, customer_ids):
            raise ConnectionError

    advice = Advice(Failing(), control, store, BurnMeter())
    for customer in ("acme", OTHER):
        advice.touch({customer})
    advice.touch({"acme"})
    with pytest.raises(ConnectionError):
        run(advice.run_once())
    assert list(advice._touched) == ["acme", OTHER]
    advice._gate = gate
    assert run(advice.run_once()) == 2
    assert house.redis.hget(f"sg:advice:{OTHER}", "state") == b"ok"


def test_the_burn_of_a_quiet_customer_does_not_stay_for_ever(store, house, run, control, gate):
    store.customers.save([customer_row("acme")])
    store.customers.observe(
        [Observation(customer_id="acme", state="ok", burn=Burn("tokens", "token", 5), observed_at_us=1)]
    )
    advice = Advice(gate, control, store, BurnMeter())
    assert run(advice.run_once()) == 1
    assert store.customers.get("acme").burn is None


def last_event(store):
    return store.guardrail_events.page(limit=1).items[0]


def test_a_stop_cites_the_limit_or_the_override_behind_it(store, house, run, control):
    relay = StoreRelay(control, store)
    house.decide(500)
    house.contract(policy_of(quota(400)), version=2)
    drain(run, relay)
    assert (last_event(store).kind, last_event(store).limit_id) == ("stopped", "tokens-day")
    assert "tokens-day has 0 tokens left" in last_event(store).message
    house.contract(policy_of(quota(10_000)), version=3)
    drain(run, relay)
    assert (last_event(store).kind, last_event(store).message) == ("resumed", "Resumed: no longer stopped")
    until_us = run(house.gate.snapshot("acme")).now_us + 60_000_000
    run(control.put_overrides("acme", [Override("o1", "stop", until_us)], 1))
    drain(run, relay)
    assert (last_event(store).kind, last_event(store).override_id) == ("stopped", "o1")
