"""Customers, overrides, webhooks and flags over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from openfeature import api as openfeature
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from spendgate.keys import PARTITIONS


def later(**delta) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


def override(**changes):
    given = {
        "customer_id": "acme",
        "kind": "let_pass",
        "max_units": 50,
        "reason": "the customer called us",
        "expires_at": later(hours=1),
    }
    return {name: value for name, value in (given | changes).items() if value is not None}


def test_one_customer_with_everything_known_of_it(api):
    api.contract()
    api.decide(1000)
    api.relay_all()
    one = api.get("/v1/customers/acme").json()
    assert one["state"] == "stopped"
    assert one["sentence"].startswith("Stopped until ")
    assert "tokens-month has 0 tokens left of 1,000 tokens" in one["sentence"]
    assert one["until"].endswith("-01T00:00:00Z")
    assert one["flags"]["billing.hard-stop"] == {"value": True, "variant": "on", "reason": "TARGETING_MATCH"}
    assert one["limits"][0]["remaining"] == 0
    provenance = {row["number"]: row for row in one["provenance"]}
    assert provenance["plan, status, caps, credits granted"]["source"] == one["policy"]["source"]
    assert provenance["limits in force"]["version"] == one["policy"]["document"][:12]
    assert provenance["used, reserved, left, state"]["as_of"] == one["as_of"]
    assert provenance["outside the gate, tokens-month"]["as_of"] is None, "nobody asked UsageBox yet"
    usage = api.get("/v1/customers/acme/usage", meter="tokens").json()
    assert sum(point["used"] for point in usage["points"]) == 1000


def test_the_list_filters_and_pages(api):
    for number in range(12):
        api.contract(f"customer-{number:02}")
    first = api.get("/v1/customers", sort="name", limit=5).json()
    rest = api.get("/v1/customers", sort="name", limit=10, cursor=first["next_cursor"]).json()
    names = [item["customer_id"] for item in first["items"] + rest["items"]]
    assert names == [f"customer-{number:02}" for number in range(12)]
    assert rest["next_cursor"] is None
    assert [item["customer_id"] for item in api.get("/v1/customers", q="R-07").json()["items"]] == ["customer-07"]
    assert api.get("/v1/customers", state="stopped").json()["items"] == []


def test_guardrail_events_tell_the_crossing_and_the_stop_once(api):
    api.contract()
    api.decide(850)
    api.decide(150)
    for _ in range(5):
        api.decide(1)
    api.relay_all()
    events = api.get("/v1/guardrail-events", customer_id="acme").json()["items"]
    assert [event["kind"] for event in events] == ["stopped", "threshold_crossed"]
    assert events[0]["from_state"] == "ok"
    assert "tokens-month" in events[0]["message"]


def test_an_override_lets_a_stopped_customer_pass_and_is_in_the_record(api):
    api.contract()
    api.decide(1000)
    assert api.decide(10)["decision"] == "stop"
    made = api.post("/v1/overrides", override(), scope="override")
    assert made.status_code == 201
    assert made.json()["created_by"] == "override@test"
    passed = api.decide(30)
    assert passed["reason"]["code"] == "allowed_by_override"
    assert passed["decision_trace"]["override_id"] == made.json()["id"]
    assert api.decide(30)["decision"] == "stop", "only 20 units are left"
    shown = api.get("/v1/overrides", customer_id="acme", active="true").json()["items"]
    assert [(each["id"], each["units_used"]) for each in shown] == [(made.json()["id"], 30)]
    revoked = api.http.delete(f"/v1/overrides/{made.json()['id']}", headers=api.headers("override"))
    assert revoked.json()["active"] is False
    assert api.decide(10)["decision"] == "stop"
    api.relay_all()
    kinds = [event["kind"] for event in api.get("/v1/guardrail-events", customer_id="acme").json()["items"]]
    assert kinds.count("override_on") == kinds.count("override_off") == 1


def test_a_repeated_request_makes_one_override(api):
    api.contract()
    body = override()
    made = [api.post("/v1/overrides", body, scope="override", headers={"idempotency-key": "k"}) for _ in range(3)]
    assert [response.status_code for response in made] == [201, 200, 200]
    assert len({response.json()["id"] for response in made}) == 1
    other = api.post("/v1/overrides", override(max_units=7), scope="override", headers={"idempotency-key": "k"})
    assert other.status_code == 409


def test_a_stop_override_stops_at_once(api):
    api.contract()
    api.post("/v1/overrides", override(kind="stop", max_units=None), scope="override")
    denied = api.decide(1)
    assert (denied["reason"]["code"], denied["customer_state"]) == ("override_stop", "stopped")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reason": "short"}, "reason"),
        ({"reason": None}, "reason"),
        ({"expires_at": None}, "expires_at"),
        ({"expires_at": later(days=31)}, "expires_at"),
        ({"expires_at": later(seconds=-1)}, "expires_at"),
        ({"max_units": 0}, "max_units"),
        ({"max_units": None}, "max_units"),
        ({"max_units": 1.5}, "max_units"),
        ({"kind": "free"}, "kind"),
        ({"kind": "stop"}, "max_units"),
        ({"bypass": ["nope"]}, "bypass"),
        ({"bypass": "*"}, "bypass"),
        ({"customer_id": "nobody"}, "customer_id"),
        ({"paid_by": "us"}, "paid_by"),
        ({"created_by": "me"}, "created_by"),
    ],
)
def test_a_bad_override_names_the_field_and_makes_nothing(api, changes, field):
    api.contract()
    response = api.post("/v1/overrides", override(**changes), scope="override")
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert api.get("/v1/overrides").json()["items"] == []


def test_a_reader_may_not_override(api):
    api.contract()
    assert api.post("/v1/overrides", override(), scope="read").status_code == 403


def test_an_administrator_puts_a_customer_without_usagebox(api):
    put = api.http.put("/v1/customers/new", json={"plan": "basic", "caps": {"tokens": 5}}, headers=api.headers("admin"))
    assert put.status_code == 200, put.text
    assert api.decide(6, customer="new")["decision"] == "stop"
    api.http.put("/v1/customers/new", json={"plan": "basic", "caps": {"tokens": 9}}, headers=api.headers("admin"))
    assert api.decide(6, customer="new")["decision"] == "allow"
    api.contract("new", caps={"tokens": 1})
    assert api.decide(3, customer="new")["decision"] == "allow", "a weaker source does not overwrite"
    for body, field in (
        ({"plan": "gold"}, "plan"),
        ({"plan": "basic", "caps": {"x": 1}}, "caps.x"),
        ({"plan": "basic", "caps": {"tokens": -1}}, "caps.tokens"),
        ({"plan": "basic", "status": "away"}, "status"),
        ({"plan": "basic", "credits_granted_total": 1.5}, "credits_granted_total"),
        ({"plan": "basic", "plann": 1}, "plann"),
        ({}, "plan"),
    ):
        response = api.http.put("/v1/customers/new", json=body, headers=api.headers("admin"))
        assert (response.status_code, response.json()["field"]) == (422, field)


def test_a_verified_webhook_queues_a_fetch_and_a_forged_one_nothing(api):
    body = '{"type":"policy.updated","timestamp":"x","data":{"customer_id":"acme","version":2}}'
    good = api.signed(body, "msg_1")

    def hints():
        return len(api.run(api.control.read_hints(dict.fromkeys(range(PARTITIONS), "0-0"))))

    def send(headers, content=body):
        return api.http.post("/webhooks/usagebox", content=content, headers=headers).status_code

    assert send(good) == 204
    assert send(good) == 204
    assert hints() == 1, "a repeated delivery asks nobody again"
    old = good | {"webhook-timestamp": "1"}
    forgeries = [
        {},
        good | {"webhook-signature": "v1,AAAA"},
        good | {"webhook-signature": "é"},
        old,
        good | {"webhook-id": "msg_2"},
    ]
    assert [send({k: v.encode() for k, v in headers.items()}) for headers in forgeries] == [401] * 5
    assert send(good, body.replace("acme", "evil")) == 401
    assert send(api.signed("\xff", "m3"), "\xff".encode("latin-1")) == 401
    assert send(api.signed('{"type":"policy.updated"}', "m4"), '{"type":"policy.updated"}') == 401
    assert hints() == 1


def test_the_stop_reaches_the_ofrep_client(api):
    api.contract()
    provider = OFREPProvider(api.url, headers_factory=lambda: api.headers("flags"))
    openfeature.set_provider(provider, domain="ofrep-test")
    client = openfeature.get_client(domain="ofrep-test")
    context = EvaluationContext(targeting_key="acme")
    assert client.get_boolean_value("billing.hard-stop", True, context) is False
    api.decide(1000)
    details = client.get_boolean_details("billing.hard-stop", False, context)
    assert (details.value, details.variant, details.reason) == (True, "on", "TARGETING_MATCH")
    assert client.get_string_value("billing.plan", "", context) == "basic"
    assert client.get_integer_value("billing.limit.tokens-month", 0, context) == 1000
    assert client.get_object_value("billing.models", {}, context) == {"allowed": ["claude-*"]}
    assert client.get_boolean_details("billing.nope", False, context).error_code == "FLAG_NOT_FOUND"
    assert client.get_boolean_details("billing.hard-stop", False).error_code == "TARGETING_KEY_MISSING"
    provider.shutdown()
    provider.session.close()


def test_bulk_evaluation_has_an_etag_over_values_and_context(api):
    api.contract()

    def bulk(context, **headers):
        return api.post("/ofrep/v1/evaluate/flags", {"context": context}, scope="flags", headers=headers)

    first = bulk({"targetingKey": "acme"})
    etag = first.headers["etag"]
    assert {flag["key"] for flag in first.json()["flags"]} >= {"billing.hard-stop", "billing.limit.tokens-month"}
    assert all({"value", "variant", "reason"} <= flag.keys() for flag in first.json()["flags"])
    assert bulk({"targetingKey": "acme"}, **{"if-none-match": etag}).status_code == 304
    assert bulk({"targetingKey": "acme", "x": 1}, **{"if-none-match": etag}).status_code == 200
    api.decide(1000)
    assert bulk({"targetingKey": "acme"}, **{"if-none-match": etag}).status_code == 200
    assert bulk({}).json()["errorCode"] == "TARGETING_KEY_MISSING"
    assert bulk({"targetingKey": "x" * 300}).json()["errorCode"] == "INVALID_CONTEXT"


def test_flagd_gets_the_stopped_customers_and_plan_tables(api):
    api.contract()
    api.contract("other", status="suspended")
    response = api.get("/flagd/flags.json", scope="flags")
    flags = response.json()["flags"]
    assert set(flags["billing.plan-table"]["variants"]) == {"none", "basic", "prepaid", "careful", "capped"}
    assert flags["billing.hard-stop"]["defaultVariant"] == "off"
    headers = api.headers("flags") | {"if-none-match": response.headers["etag"]}
    assert api.http.get("/flagd/flags.json", headers=headers).status_code == 304


def test_signing_in_works_once(api):
    link = api.post("/v1/sign-in-links", {"principal": "alex"}, scope="admin").json()
    session = api.http.post("/v1/sessions", json={"token": link["token"]})
    key = session.json()["key"]
    me = api.http.get("/v1/me", headers={"authorization": f"Bearer {key}"}).json()
    assert (me["principal"], me["scopes"]) == ("alex", ["override", "read"])
    assert api.http.post("/v1/sessions", json={"token": link["token"]}).status_code == 401
    assert api.post("/v1/sign-in-links", {"principal": "x"}, scope="read").status_code == 403


def test_an_administrator_is_signed_in_on_request_only(api):
    link = api.post("/v1/sign-in-links", {"admin": True}, scope="admin").json()
    session = api.http.post("/v1/sessions", json={"token": link["token"]}).json()
    assert session["scopes"] == ["admin", "override", "read"]
    refused = api.post("/v1/sign-in-links", {"admin": "yes"}, scope="admin")
    assert (refused.status_code, refused.json()["field"]) == (422, "admin")


def test_summary_sync_health_and_metrics(api):
    api.contract()
    api.decide(1)
    api.relay_all()
    summary = api.get("/v1/summary").json()
    assert (summary["customers"], summary["sandbox"], summary["decisions_last_minute"]["allow"]) == (1, True, 1)
    sync = api.get("/v1/sync").json()
    assert sync["relays"][0] | {"oldest_pending_at": None} == {
        "sink": "usagebox.usage",
        "pending": 1,
        "attempted": 0,
        "delivered": 0,
        "discarded": 0,
        "dead": 0,
        "oldest_pending_at": None,
        "error": None,
    }
    assert api.http.get("/healthz").json() == {"status": "ok"}
    assert api.http.get("/readyz").json()["status"] == "ready"
    assert "spendgate_decisions_total" in api.get("/metrics").text
