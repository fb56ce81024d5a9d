"""What readers of the topics find, and that it is what the schemas say."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import jsonschema
import msgspec
import pytest

from house import policy_of, quota, rate
from kafka_servers import read_topic
from spendgate.state import Override
from spendgate_daemon.overrides import begin_event
from spendgate_daemon.relays.kafka.messages import KINDS, schema_of
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.relays.sweep import Sweep
from spendgate_daemon.store.overrides import StoredOverride

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def everything(run, control, store, house):
    """A bit of all that can happen to a customer."""
    house.contract(policy_of(quota(100)), version=2)
    house.decide(90, traceparent=TRACE, metadata={"model": "claude"})
    house.decide(20)
    for customer in ("größe {x}", "slow"):
        house.contract(policy_of(rate(60, 60)), customer=customer)
        for _ in range(30):
            house.decide(50, customer=customer)
    held = house.gate.reserve("acme", "tokens", 5)
    run(held.__aenter__())
    held.commit(3)
    run(held.__aexit__(None, None, None))
    house.decide(7)
    until_us = run(house.gate.snapshot("acme")).now_us + 60_000_000
    run(control.put_overrides("acme", [Override("o1", "stop", until_us)], 1))
    sweep, relay = Sweep(control), StoreRelay(control, store)
    while not any(record.kind == "denials" for record in house.records()):
        run(sweep.run_once())  # denials that are only counted are told when their second is over
    while run(relay.run_once()):
        pass
    made = StoredOverride(
        id="o1",
        request_key=None,
        customer_id="acme",
        kind="stop",
        max_units=0,
        bypass=(),
        reason="because we said so",
        paid_by="goodwill",
        created_by="alex",
        created_at_us=time.time_ns() // 1000,
        expires_at_us=until_us,
    )
    store.overrides.create(made, begin_event(made))


def strict(kind):
    """The schema without room for what it does not describe."""
    described = schema_of(kind) | {"additionalProperties": False}
    jsonschema.Draft202012Validator.check_schema(described)
    formats = jsonschema.FormatChecker([])
    formats.checks("date-time", raises=ValueError)(lambda text: datetime.fromisoformat(text).tzinfo is UTC)
    return jsonschema.Draft202012Validator(described, format_checker=formats)


def test_each_message_is_what_its_schema_says_and_is_there_once(everything, store, broker, prefix, relay_of, drain):
    found = {}
    for kind in KINDS:
        assert drain(relay_of(broker.address, kind, size=7))
        found[kind] = read_topic(broker.address, f"{prefix}.{kind}")
        validator = strict(kind)
        values = [msgspec.json.decode(message.value()) for message in found[kind]]
        for message, value in zip(found[kind], values, strict=True):
            validator.validate(value)
            headers = dict(message.headers())
            assert headers["id"].decode() == value["id"]
            assert message.key().decode() == value["customer_id"]
            assert headers["content-type"] == b"application/json"
            assert headers["schema-version"] == b"1"
            assert headers["source"] == b"spendgate/install"
            assert headers.get("traceparent", b"").decode() == (TRACE if "traceparent" in headers else "")
        assert len({value["id"] for value in values}) == len(values)
    assert {row["decision_id"] for row in map(decoded, found["usage"])} <= {
        row["id"] for row in map(decoded, found["decisions"])
    }
    assert {row["kind"] for row in map(decoded, found["decisions"])} == {"decision", "denials", "finish"}
    assert {row["kind"] for row in map(decoded, found["guardrail_events"])} >= {"stopped", "throttled", "override_on"}
    assert len(found["decisions"]) == len(store.decisions.page(limit=200).items)
    assert len(found["guardrail_events"]) == len(store.guardrail_events.page(limit=200).items)


def decoded(message):
    return msgspec.json.decode(message.value())


def test_a_trace_reaches_every_topic_that_its_decision_reaches(everything, broker, prefix, relay_of, drain):
    for kind in KINDS:
        drain(relay_of(broker.address, kind))
        traced = [m for m in read_topic(broker.address, f"{prefix}.{kind}") if "traceparent" in dict(m.headers())]
        assert traced, kind
        assert all(dict(m.headers())["traceparent"].decode() == TRACE for m in traced)


def test_a_customers_messages_are_in_order_in_one_partition(fill, house, broker, prefix, relay_of, drain):
    for customer in ("a", "b", "c", "d"):
        house.contract(policy_of(quota(10**9)), customer=customer)
    made = {customer: fill(25, customer=customer) for customer in ("a", "b", "c", "d")}
    drain(relay_of(broker.address, "decisions", size=9))
    found = read_topic(broker.address, f"{prefix}.decisions")
    for customer, ids in made.items():
        mine = [message for message in found if message.key() == customer.encode()]
        assert len({message.partition() for message in mine}) == 1
        assert [decoded(message)["id"] for message in mine] == ids
