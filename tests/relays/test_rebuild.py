"""All data of Redis is lost: what the store has makes everything again, and what it says of Redis is true before, too."""

from __future__ import annotations

import contextlib
import random
import time

import msgspec
import pytest

from house import DENY_UNKNOWN, House, credits_limit, policy_of, quota, rate
from spendgate.errors import BacklogFull, InvalidEvent, NotPrepared, ReservationFinished
from spendgate.keys import partition_of, tag_of
from spendgate.limits import Concurrency
from spendgate.state import Standing
from spendgate_daemon.corrections import Asked, Corrections
from spendgate_daemon.mirror.apply import policy_state_of
from spendgate_daemon.overrides import mirror_overrides
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.restore import installs
from spendgate_daemon.restore.rebuild import Rebuild
from spendgate_daemon.store.customers import Customer
from spendgate_daemon.store.guardrail_events import GuardrailEvent
from spendgate_daemon.store.overrides import StoredOverride

TOKENS = policy_of(
    quota(5000),
    quota(900, id="per-agent", per="agent", max_values=4, thresholds=()),
    quota(2000, id="of-large", match={"model": "large"}, thresholds=()),
    credits_limit(),
    rate(6_000, 6_000),
    Concurrency("open", ("tokens",), max=4),
)
LATER = policy_of(quota(7000), credits_limit(), quota(50, id="gpu-day", meters=("gpu",), unit="second", thresholds=()))


def clock_us():
    return time.time_ns() // 1000


class Site:
    def __init__(self, house, store):
        self.house, self.store, self.run = house, store, house.run
        self.relay = StoreRelay(house.control, store)
        self.versions = {}

    def contract(self, policy, customer="acme", status="active"):
        version = self.versions[customer] = self.versions.get(customer, 0) + 1
        self.store.policies.save_effective({policy.digest: policy.encode()})
        known = Customer(
            customer_id=customer,
            name=customer,
            plan=policy.plan,
            status=status,
            version=version,
            source="admin",
            policy_digest=policy.digest,
            updated_at_us=0,
            granted_micro_credits=200_000,
        )
        self.store.customers.save([known])
        self.run(self.house.control.put_state(customer, policy_state_of(known), policy))

    def drain(self):
        while self.run(self.relay.run_once()):
            pass

    def lose_everything(self):
        self.run(installs.prepare(self.house.control, self.store, None))
        self.house.redis.flushall()
        self.run(installs.prepare(self.house.control, self.store, None))
        self.run(self.house.control.put_default(DENY_UNKNOWN))

    def rebuild(self):
        told = []
        done = self.run(Rebuild(self.house.control, self.store, clock_us, told.append).run())
        assert told[-1] == done
        return done

    def everything(self, customer="acme"):
        """All that Redis holds of a customer, but what tells only how often it changed."""
        tag, found = tag_of(partition_of(customer)), {}
        for key in sorted(self.house.redis.scan_iter(f"{tag}*")):
            name = key.decode().removeprefix(tag)
            if name.split(":")[0] in ("counters", "reservations", "seen", "ended", "per"):
                found[name] = self.house.redis.hgetall(key)
            elif name.split(":")[0] in ("ends", "expiring"):
                found[name] = self.house.redis.zrange(key, 0, -1, withscores=True)
            elif name.split(":")[0] in ("state", "overrides"):
                found[name] = self.house.redis.get(key)
        counters = found[f"counters:{customer}"]
        standing = Standing.decode(counters.pop(b"*"))
        # Denials that were only counted, and not told yet, are lost with Redis.
        found["standing"] = msgspec.structs.replace(standing, denials=(), version=0)
        return found


@pytest.fixture
def site(run, control, gate, redis_url, store):
    house = House(run, control, gate, redis_url)
    yield Site(house, store)
    house.close()


class Life:
    """An eventful one: decisions, repeats, reservations that end or not, policies that come and go."""

    def __init__(self, site, chance):
        self.site, self.house, self.chance = site, site.house, chance
        self.open, self.events, self.used = [], [], []

    def play(self, steps):
        acts = [self.decide] * 50 + [self.repeat] * 10 + [self.reserve] * 15 + [self.end] * 15
        acts += [self.change] * 4 + [self.other_meter] * 3 + [self.site.drain] * 3 + [self.correct] * 8
        self.site.contract(TOKENS)
        for _ in range(steps):
            self.chance.choice(acts)()
        self.site.contract(TOKENS)
        self.site.drain()

    def metadata(self):
        return {"agent": self.chance.choice("abcde"), "model": self.chance.choice(["large", "small"])}

    def decide(self):
        event = {"event_id": f"e{len(self.events)}", "metadata": self.metadata()}
        self.events.append((self.chance.randint(1, 90), event))
        self.used.append(self.house.decide(self.events[-1][0], **event).decision_id)

    def repeat(self):
        if self.events:
            quantity, event = self.chance.choice(self.events)
            self.house.decide(quantity, **event)

    def reserve(self):
        run = self.house.gate.reserve("acme", "tokens", self.chance.randint(1, 200), metadata=self.metadata())
        given = self.house.run(self.house.gate.submit(run._event, mode="reserve"))
        if given.allowed:
            self.open.append(given.reservation_id)

    def end(self):
        if not self.open:
            return
        reservation_id = self.open.pop(self.chance.randrange(len(self.open)))
        gate, end = self.house.gate, self.chance.choice(["commit", "release", "extend"])
        if end == "commit":
            self.used.append(self.house.run(gate.commit(reservation_id, self.chance.randint(0, 250))).record_id)
        elif end == "release":
            self.house.run(gate.release(reservation_id))
        else:
            self.house.run(gate.extend(reservation_id, 900))
            self.open.append(reservation_id)

    def correct(self):
        if not self.used:
            return
        self.site.drain()
        asked = Asked(
            id=f"c{self.chance.random()}",
            decision_id=self.chance.choice(self.used),
            meter=None,
            quantity=self.chance.choice([0, 0, self.chance.randint(1, 300)]),
            actor="ops",
            reason="counted twice",
        )
        with contextlib.suppress(InvalidEvent):  # it was denied, or is right already
            self.house.run(Corrections(self.house.control, self.site.store).make(asked))

    def change(self):
        self.site.contract(self.chance.choice([TOKENS, LATER]))

    def other_meter(self):
        self.house.decide(self.chance.randint(1, 30), meter="gpu")


@pytest.mark.parametrize("seed", range(6))
def test_the_stored_records_add_up_to_what_redis_held(site, seed):
    Life(site, random.Random(seed)).play(120)
    before = site.everything()
    site.lose_everything()
    done = site.rebuild()
    assert (done.partitions, done.customers_done) == (64, 1)
    after = site.everything()
    for name in sorted(before.keys() | after.keys()):
        assert after.get(name) == before.get(name), name
    due_us = site.house.redis.zscore(tag_of(partition_of("acme")) + "changes", "acme")
    assert (due_us or 0) == after["standing"].due_at_us


def test_life_goes_on_after_it(site):
    site.contract(policy_of(quota(1000)))
    first = site.house.decide(900, event_id="first")
    run = site.house.gate.reserve("acme", "tokens", 50)
    held = site.run(site.house.gate.submit(run._event, mode="reserve"))
    site.drain()
    site.lose_everything()
    with pytest.raises(BacklogFull):
        site.house.decide(1)
    site.rebuild()
    assert site.house.decide(900, event_id="first").decision_id == first.decision_id
    assert site.house.decide(60).outcome == "stop"
    assert site.house.decide(50).outcome == "allow"
    assert site.run(site.house.gate.commit(held.reservation_id, 50)).status == "committed"
    with pytest.raises(ReservationFinished):
        site.run(site.house.gate.release(held.reservation_id))
    site.drain()
    assert site.store.usage.total("acme", "tokens", 0, 2**62) == 1000
    kinds = [event.kind for event in site.store.guardrail_events.page(limit=50).items]
    assert kinds.count("repair") == 1
    assert kinds.count("threshold_crossed") == 1, "it had fired before the loss, and doesn't again"


def test_overrides_and_stops_come_back(site):
    site.contract(policy_of(quota(100)), status="active")
    now_us = clock_us()
    override = StoredOverride(
        id="o1", request_key=None, customer_id="acme", kind="let_pass", max_units=500, bypass=("*",),
        reason="a deadline at night", paid_by="customer", created_by="ops", created_at_us=now_us,
        expires_at_us=now_us + 3_600_000_000,
    )  # fmt: skip
    event = GuardrailEvent(id="o1.on", customer_id="acme", kind="override_on", at_us=now_us, message="on")
    site.store.overrides.create(override, event)
    site.run(mirror_overrides(site.house.control, site.store, "acme", now_us))
    assert site.house.decide(300).reason == "allowed_by_override"
    site.contract(policy_of(quota(100)), customer="other", status="suspended")
    site.drain()
    site.lose_everything()
    site.rebuild()
    assert site.house.decide(200).reason == "allowed_by_override"
    assert site.house.decide(1).outcome == "stop", "500 units were let through in all"
    assert site.house.decide(1, customer="other").reason == "customer_suspended"


def test_a_stronger_source_comes_back_whatever_version_a_weaker_one_left_in_redis(site):
    site.contract(policy_of(quota(100)))
    site.house.decide(1)
    site.drain()
    state = site.run(site.house.gate.snapshot("acme")).state
    site.lose_everything()
    left = msgspec.structs.replace(state, source="usagebox", version=9)
    site.house.redis.set(f"{tag_of(partition_of('acme'))}state:acme", left.encode())
    site.rebuild()
    assert site.run(site.house.gate.snapshot("acme")).state == state


def test_a_redis_of_another_installation_is_refused(site):
    site.run(installs.prepare(site.house.control, site.store, None))
    site.house.redis.flushall()
    site.run(site.house.control.prepare())
    with pytest.raises(NotPrepared, match="the store has that of"):
        site.run(installs.prepare(site.house.control, site.store, None))


def test_without_a_loss_there_is_nothing_to_do(site):
    site.contract(policy_of(quota(100)))
    site.house.decide(1)
    site.run(installs.prepare(site.house.control, site.store, None))
    assert site.rebuild().partitions == 0


def test_a_rebuild_that_was_stopped_goes_on(site):
    for number in range(5):
        site.contract(policy_of(quota(100)), customer=f"customer-{number}")
        site.house.decide(60, customer=f"customer-{number}")
    site.drain()
    site.lose_everything()

    def stop(progress):
        if progress.customers_done == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        site.run(Rebuild(site.house.control, site.store, clock_us, stop).run())
    site.rebuild()
    for number in range(5):
        assert site.house.decide(60, customer=f"customer-{number}").outcome == "stop"
        assert site.house.decide(40, customer=f"customer-{number}").outcome == "allow"
