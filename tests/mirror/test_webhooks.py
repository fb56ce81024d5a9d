"""Webhooks: whatever arrives, in whatever order and number, everybody ends with the policy that is true."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from standardwebhooks.webhooks import Webhook

from spendgate.control import HINTS_KEPT
from spendgate.keys import PARTITIONS, partition_of, tag_of
from spendgate_daemon.mirror.webhooks import WebhookReceiver, WebhookRefused
from spendgate_daemon.usagebox.policies import WEBHOOK_TYPES

OLD, NEW, FOREIGN = (f"whsec_{letter * 32}" for letter in "abc")
KINDS = sorted(WEBHOOK_TYPES)


def body_of(customer, version=1, kind="policy.updated"):
    now = datetime.now(UTC).isoformat()
    return json.dumps({"type": kind, "timestamp": now, "data": {"customer_id": customer, "version": version}})


def signed(message_id, body, secret=NEW, at=None):
    at = at or datetime.now(UTC)
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(at.timestamp()))}
    return headers | {"webhook-signature": Webhook(secret).sign(message_id, at, body)}, body.encode()


def count(outcome):
    return REGISTRY.get_sample_value("spendgate_webhooks_total", {"outcome": outcome}) or 0


def waiting(world):
    async def lengths():
        keys = (f"{tag_of(partition)}hints" for partition in range(PARTITIONS))
        return sum(await asyncio.gather(*(world.control.redis.xlen(key) for key in keys)))

    return world.run(lengths())


@pytest.fixture
def receiver(world):
    return WebhookReceiver((OLD, NEW), world.control)


def refused(world, receiver, headers, body):
    with pytest.raises(WebhookRefused):
        world.run(receiver.accept(headers, body))
    return True


def test_either_secret_is_taken_while_one_replaces_the_other(world, receiver):
    for number, secret in enumerate((OLD, NEW)):
        assert world.run(receiver.accept(*signed(f"m{number}", body_of("acme"), secret))) == "acme"
    refused(world, receiver, *signed("m3", body_of("acme"), FOREIGN))
    rotated = WebhookReceiver((NEW,), world.control)
    refused(world, rotated, *signed("m4", body_of("acme"), OLD))


def test_a_header_with_several_signatures_is_taken_for_the_good_one(world, receiver):
    headers, body = signed("m1", body_of("acme"))
    other = signed("m1", body_of("acme"), FOREIGN)[0]["webhook-signature"]
    both = headers | {"webhook-signature": f"v1a,AAAA {other} {headers['webhook-signature']}"}
    assert world.run(receiver.accept(both, body)) == "acme"


def test_every_change_of_a_good_one_is_a_forgery(world, receiver):
    headers, body = signed("m1", body_of("acme"))
    signature = headers["webhook-signature"]
    now = datetime.now(UTC)
    before, queued = count("refused"), waiting(world)
    forgeries = [
        (headers, body.replace(b"acme", b"evil")),
        (headers, body + b" "),
        (headers, b""),
        (headers | {"webhook-id": "m2"}, body),
        (headers | {"webhook-timestamp": str(int(now.timestamp()) + 1)}, body),
        (headers | {"webhook-timestamp": "soon"}, body),
        (headers | {"webhook-timestamp": "nan"}, body),
        (headers | {"webhook-signature": signature.replace("v1,", "v2,")}, body),
        *((headers | {"webhook-signature": bad}, body) for bad in ("", "v1", "v1,", "v1,é", ",", signature[3:])),
        *(({name: value for name, value in headers.items() if name != gone}, body) for gone in headers),
        signed("m3", body_of("acme"), at=now - timedelta(seconds=301)),
        signed("m4", body_of("acme"), at=now + timedelta(seconds=310)),
    ]
    assert all(refused(world, receiver, *forgery) for forgery in forgeries)
    assert count("refused") == before + len(forgeries)
    assert waiting(world) == queued
    assert world.run(receiver.accept(headers, body)) == "acme"


def test_a_good_signature_under_a_broken_body_is_refused_and_under_another_type_ignored(world, receiver):
    broken = [
        "{",
        "[]",
        "5",
        "{}",
        json.dumps({"type": "policy.updated"}),
        body_of(""),
        body_of(None),
        body_of("x" * 300),
    ]
    for number, text in enumerate(broken):
        refused(world, receiver, *signed(f"b{number}", text))
    before = count("ignored")
    for number, text in enumerate((body_of("acme", kind="invoice.paid"), json.dumps({"type": "ping"}))):
        assert world.run(receiver.accept(*signed(f"t{number}", text))) is None
    assert (count("ignored"), waiting(world)) == (before + 2, 0)


def test_a_repeated_delivery_asks_for_nothing_more(world, receiver):
    delivery = signed("m1", body_of("acme"))
    assert world.run(receiver.accept(*delivery)) == "acme"
    assert world.run(receiver.accept(*delivery)) is None
    assert waiting(world) == 1


def test_a_flood_is_shed_to_one_poll_that_is_of_everybody(world, receiver):
    """Nobody reads for a while, and the queue does not grow; then one poll brings what was shed as well."""
    partition = partition_of("c0")
    crowd = [name for name in (f"c{number}" for number in range(200_000)) if partition_of(name) == partition]
    crowd = crowd[: HINTS_KEPT + 200]
    shed, accepted = count("shed"), count("accepted")

    async def flood():
        for number, name in enumerate(crowd):
            assert await receiver.accept(*signed(f"m{number}", body_of(name))) == name

    world.run(flood())
    assert (count("shed"), count("accepted")) == (shed + 200, accepted + HINTS_KEPT)
    assert waiting(world) == HINTS_KEPT
    world.put(crowd[-1], plan="basic", caps={"tokens": 7})
    assert world.run(world.poll.follow_hints_once()) == HINTS_KEPT
    assert world.snapshot(crowd[-1]).policy.limits[0].cap == 7, "it was among those that were shed"
    assert waiting(world) == 0
    assert world.run(receiver.accept(*signed("again", body_of(crowd[-1])))) == crowd[-1]
    assert waiting(world) == 1, "there is room again"


class Deliveries:
    """Ten thousand of all kinds, in an order that has nothing to do with that of the changes they tell of."""

    KINDS = ("valid", "duplicate", "forged", "replayed", "foreign type", "broken")
    REFUSED = ("forged", "replayed", "broken")

    def __init__(self, customers):
        self._dice = random.Random(20261130)
        self._customers = customers
        self._sent = []
        self.counts = dict.fromkeys(self.KINDS, 0)

    def customer(self):
        return self._dice.choice(self._customers)

    def good(self, number, customer, version=1):
        secret, kind = self._dice.choice((OLD, NEW)), self._dice.choice(KINDS)
        self._sent.append(signed(f"m{number}", body_of(customer, version, kind), secret))
        return self._sent[-1]

    def any(self, number):
        kind, message_id, customer = self._dice.choice(self.KINDS), f"m{number}", self.customer()
        self.counts[kind] += 1
        return kind, getattr(self, f"_{kind.replace(' ', '_')}")(number, message_id, customer)

    def _valid(self, number, _, customer):
        return self.good(number, customer, self._dice.randrange(100))

    def _duplicate(self, number, _, customer):
        return self._dice.choice(self._sent) if self._sent else self.good(number, customer)

    def _forged(self, _, message_id, customer):
        if self._dice.random() < 0.5:
            return signed(message_id, body_of(customer), FOREIGN)
        headers, body = signed(message_id, body_of(customer))
        return headers, body.replace(b"version", b"vers1on")

    def _replayed(self, _, message_id, customer):
        return signed(
            message_id, body_of(customer), at=datetime.now(UTC) - timedelta(hours=self._dice.randrange(1, 99))
        )

    def _foreign_type(self, _, message_id, customer):
        return signed(message_id, body_of(customer, kind="invoice.paid"))

    def _broken(self, _, message_id, __):
        return signed(message_id, self._dice.choice(("{", "[]", '{"type": "policy.updated"}', body_of("\x00"))))


async def is_refused(receiver, delivery):
    try:
        await receiver.accept(*delivery)
    except WebhookRefused:
        return True
    return False


async def deliver(world, receiver, deliveries, caps):
    """All of them, while caps change; those that were not treated as they should have been."""
    late, wrongly = [], []
    for number in range(10_000):
        if number % 50 == 0:
            # What changes now is told later, and after newer changes of others.
            customer = deliveries.customer()
            caps[customer] = number + 2
            world.put(customer, plan="basic", caps={"tokens": caps[customer]})
            late.append(deliveries.good(f"late{number}", customer, number))
        if number % 150 == 149:
            await receiver.accept(*late.pop())
        kind, delivery = deliveries.any(number)
        if await is_refused(receiver, delivery) != (kind in Deliveries.REFUSED):
            wrongly.append((kind, delivery))
    for delivery in reversed(late):
        await receiver.accept(*delivery)
    return wrongly


def test_ten_thousand_deliveries_of_all_kinds_end_in_the_right_policy_for_everybody(world, receiver):
    caps = dict.fromkeys((f"c{number}" for number in range(60)), 1)
    for customer in caps:
        world.put(customer, plan="basic", caps={"tokens": 1})
    world.run(world.poll.poll_once())
    deliveries = Deliveries(list(caps))

    async def both():
        delivering = asyncio.create_task(deliver(world, receiver, deliveries, caps))
        while not delivering.done() or await world.poll.follow_hints_once():
            await world.poll.follow_hints_once()
        return await delivering

    assert world.run(both()) == []
    assert min(deliveries.counts.values()) > 1000
    for customer, cap in caps.items():
        assert world.snapshot(customer).policy.limits[0].cap == cap, customer
