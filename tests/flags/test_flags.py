"""Flags: what they say, and that the provider says it in time, without the daemon, and without Redis."""

from __future__ import annotations

import json
import threading

import msgspec
import pytest
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.provider import ProviderEvent

from house import House, policy_of, quota, rate
from redis_servers import find_redis_servers, start_redis
from spendgate import SyncGate
from spendgate.state import Override
from spendgate_flags import SpendgateProvider, flags_of
from spendgate_flags.flagd import DefinitionTooLarge, definition_of, etag_of, write_definition
from spendgate_flags.ofrep import evaluate_all, evaluate_one, targeting_key_of

ACME = EvaluationContext(targeting_key="acme")


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    yield made
    made.close()


@pytest.fixture
def client(house):
    """An application's client; the domain is its own, beside the application's other provider."""
    provider = SpendgateProvider(house.url, ttl_seconds=3600)
    api.set_provider_and_wait(provider, domain="billing")
    yield api.get_client(domain="billing")
    api.shutdown()
    api.clear_providers()


class Changes:
    """Waits for the provider's own event instead of for time."""

    def __init__(self, client) -> None:
        self.event = threading.Event()
        self.client = client
        client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, self._changed)

    def _changed(self, _details) -> None:
        self.event.set()

    def wait(self) -> None:
        assert self.event.wait(10), "no change was told"
        self.event.clear()

    def until(self, found) -> None:
        while not found():
            self.wait()


def flags(house):
    return flags_of(house.run(house.gate.snapshot("acme")))


def test_the_set_is_fixed_and_every_value_has_variant_and_reason(house):
    house.contract(policy_of(quota(1000), rate(), models=("claude-*",)), version=7)
    made = flags(house)
    assert set(made) == {
        "billing.hard-stop",
        "billing.throttle",
        "billing.plan",
        "billing.models",
        "billing.policy",
        "billing.limit.tokens-day",
        "billing.limit.tokens-rate",
    }
    assert all(flag.variant and flag.reason == "TARGETING_MATCH" for flag in made.values())
    assert all(not isinstance(value, dict | list) for flag in made.values() for value in flag.metadata.values()), "flat"
    assert made["billing.models"].value == {"allowed": ["claude-*"]}
    assert made["billing.limit.tokens-day"].value == 1000
    assert made["billing.plan"].metadata["policyVersion"] == 7


def test_a_stop_tells_when_it_ends_and_what_follows(house):
    house.contract(policy_of(quota(10)))
    house.decide(10)
    stop = flags(house)["billing.hard-stop"]
    assert (stop.value, stop.metadata["next"]) == (True, False)
    assert stop.metadata["until"].endswith("T00:00:00Z")


def test_an_unknown_customer_gets_the_documents_default(house):
    made = flags_of(house.run(house.gate.snapshot("nobody")))
    assert (made["billing.hard-stop"].value, made["billing.hard-stop"].reason) == (True, "STATIC")


def test_suspended_is_a_hard_stop(house):
    house.contract(policy_of(quota(10)), status="suspended")
    assert flags(house)["billing.hard-stop"].value is True


def test_the_provider_sees_a_stop_and_its_end(house, client):
    house.contract(policy_of(quota(10)))
    changes = Changes(client)
    assert client.get_boolean_value("billing.hard-stop", True, ACME) is False
    house.decide(10)
    changes.until(lambda: client.get_boolean_value("billing.hard-stop", False, ACME))
    details = client.get_boolean_details("billing.hard-stop", False, ACME)
    assert (details.variant, details.reason, details.flag_metadata["stale"]) == ("on", "TARGETING_MATCH", False)
    house.contract(policy_of(quota(20)), version=2)
    changes.until(lambda: not client.get_boolean_value("billing.hard-stop", True, ACME))


def test_types_are_what_openfeature_expects(house, client):
    house.contract(policy_of(quota(10)))
    assert client.get_integer_value("billing.limit.tokens-day", 0, ACME) == 10
    value = client.get_float_value("billing.limit.tokens-day", 0.5, ACME)
    assert (value, type(value)) == (10.0, float)
    assert client.get_string_value("billing.plan", "", ACME) == "test"
    assert client.get_integer_details("billing.hard-stop", 3, ACME).error_code == "TYPE_MISMATCH"
    assert client.get_boolean_details("billing.nope", False, ACME).error_code == "FLAG_NOT_FOUND"
    assert client.get_boolean_details("billing.hard-stop", False).error_code == "TARGETING_KEY_MISSING"


def test_the_provider_ends_an_override_by_itself(house):
    clock = [0.0]
    provider = SpendgateProvider(house.url, ttl_seconds=10**6, monotonic=lambda: clock[0])
    provider.initialize(EvaluationContext())
    house.contract(policy_of(quota(10)))
    now_us = house.run(house.gate.snapshot("acme")).now_us
    house.run(house.control.put_overrides("acme", [Override("o1", "stop", now_us + 3_600_000_000)], 1))
    ask = lambda: provider.resolve_boolean_details("billing.hard-stop", False, ACME).value  # noqa: E731
    while not ask():
        pass
    provider._feed.stop()
    assert ask() is True, "and nobody tells anything from here on"
    clock[0] += 3599
    assert ask() is True
    clock[0] += 2
    assert ask() is False, "without a word from anybody"
    provider.shutdown()


def test_without_redis_the_last_known_serves_and_then_the_outage_value(house, tmp_path, run):
    servers = find_redis_servers()
    process, url = start_redis(next(iter(servers.values())), tmp_path)
    clock = [0.0]
    provider = SpendgateProvider(url, max_stale_seconds=100, outage_hard_stop=True, monotonic=lambda: clock[0])
    try:
        from spendgate.control import Control

        control = Control.from_url(url)
        run(control.prepare())
        policy = policy_of(quota(10))
        from house import DENY_UNKNOWN, state_of

        run(control.put_default(DENY_UNKNOWN))
        run(control.put_state("acme", state_of(policy), policy))
        run(control.aclose())
        stale = threading.Event()
        api.set_provider_and_wait(provider, domain="outage")
        client = api.get_client(domain="outage")
        client.add_handler(ProviderEvent.PROVIDER_STALE, lambda _: stale.set())
        assert client.get_boolean_value("billing.hard-stop", True, ACME) is False
    finally:
        process.kill()
        process.wait(10)
    assert stale.wait(10)
    details = client.get_boolean_details("billing.hard-stop", True, ACME)
    assert (details.value, details.reason, details.flag_metadata["stale"]) == (False, "STALE", True)
    clock[0] += 101
    assert client.get_boolean_value("billing.hard-stop", False, ACME) is True, "the configured outage value"
    assert client.get_boolean_value("billing.throttle", False, ACME) is False, "others: the caller's default"
    api.shutdown()
    api.clear_providers()


def test_ofrep_bodies(house):
    house.contract(policy_of(quota(10)))
    made = flags(house)
    one = json.loads(evaluate_one(made, "billing.hard-stop").body)
    assert {"key", "value", "reason", "variant", "metadata"} == set(one)
    missing = evaluate_one(made, "x")
    assert (missing.status, json.loads(missing.body)["errorCode"]) == (404, "FLAG_NOT_FOUND")
    context = {"targetingKey": "acme"}
    first = evaluate_all(made, context, None)
    assert evaluate_all(flags(house), context, first.etag).status == 304, "the moment of reading is no change"
    assert evaluate_all(made, context | {"plan": "x"}, first.etag).status == 200
    for body in (None, [], {}, {"context": []}, {"context": {"targetingKey": 5}}, {"context": {"targetingKey": ""}}):
        assert targeting_key_of(body) is None


def test_flagd_definition(tmp_path):
    policy = policy_of(quota(10))
    definition = definition_of(["b", "a"], {"test": policy}, "v")
    assert definition == definition_of(["a", "b"], {"test": policy}, "v")
    flags = msgspec.json.decode(definition)["flags"]
    assert flags["billing.hard-stop"]["targeting"]["if"][0]["in"][1] == ["a", "b"]
    assert flags["billing.plan-table"]["variants"]["test"] == {"models": ["*"], "limits": {"tokens-day": 10}}
    assert etag_of(definition) != etag_of(definition_of(["a"], {"test": policy}, "v"))
    path = tmp_path / "flags.json"
    assert write_definition(path, definition)
    assert not write_definition(path, definition)
    assert path.read_bytes() == definition
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DefinitionTooLarge, match="bytes"):
        definition_of([f"customer-{number:040}" for number in range(100_000)], {}, "v")


def test_the_gate_is_not_needed_to_be_async(house):
    house.contract(policy_of(quota(10)))
    with SyncGate.from_url(house.url) as gate:
        assert flags_of(gate.snapshot("acme"))["billing.hard-stop"].value is False
