"""Bad input: 4xx problem details that name the field, nothing written, never a 5xx."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = {"customer_id": "acme", "meter": "tokens", "quantity": 1}


def raw(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


BAD = {
    "negative": (raw(quantity=-1), "quantity"),
    "zero": (raw(quantity=0), "quantity"),
    "fraction": (raw(quantity=1.5), "quantity"),
    "whole fraction": (raw(quantity=2.0), "quantity"),
    "huge": (raw(quantity=10**13), "quantity"),
    "boolean": (raw(quantity=True), "quantity"),
    "text": (raw(quantity="5"), "quantity"),
    "hex text": (raw(quantity="0x10"), "quantity"),
    "null": (raw(quantity=None), "quantity"),
    "list": (raw(quantity=[1]), "quantity"),
    "hex": (b'{"customer_id":"acme","meter":"tokens","quantity":0x10}', None),
    "NaN": (b'{"customer_id":"acme","meter":"tokens","quantity":NaN}', None),
    "Infinity": (b'{"customer_id":"acme","meter":"tokens","quantity":-Infinity}', None),
    "exponent": (b'{"customer_id":"acme","meter":"tokens","quantity":1e400}', "quantity"),
    "ten thousand digits": (b'{"customer_id":"acme","meter":"tokens","quantity":' + b"9" * 10_000 + b"}", None),
    "unknown meter": (raw(meter="token"), "meter"),
    "no meter": (json.dumps({"customer_id": "acme", "quantity": 1}).encode(), "meter"),
    "no quantity": (json.dumps({"customer_id": "acme", "meter": "tokens"}).encode(), "quantity"),
    "no customer": (json.dumps({"meter": "tokens", "quantity": 1}).encode(), "customer_id"),
    "empty customer": (raw(customer_id=""), "customer_id"),
    "customer is a number": (raw(customer_id=5), "customer_id"),
    "customer is long": (raw(customer_id="x" * 257), "customer_id"),
    "control character": (raw(customer_id="a\nb"), "customer_id"),
    "lone surrogate": (b'{"customer_id":"\\ud800","meter":"tokens","quantity":1}', "customer_id"),
    "event_id is null": (raw(event_id=None), "event_id"),
    "event_id is long": (raw(event_id="x" * 300), "event_id"),
    "a megabyte": (raw(customer_id="x" * 1_000_000), None),
    "both meter and quantities": (raw(quantities={"tokens": 1}), "quantities"),
    "empty quantities": (json.dumps({"customer_id": "acme", "quantities": {}}).encode(), "quantities"),
    "bad one of quantities": (
        json.dumps({"customer_id": "acme", "quantities": {"tokens": -1}}).encode(),
        "quantities.tokens",
    ),
    "nested metadata": (raw(metadata={"a": {"b": 1}}), "metadata.a"),
    "metadata is a list": (raw(metadata=[1]), "metadata"),
    "metadata number": (raw(metadata={"context_window": -5}), "metadata.context_window"),
    "metadata text for number": (raw(metadata={"context_window": "5"}), "metadata.context_window"),
    "metadata surrogate key": (
        b'{"customer_id":"acme","meter":"tokens","quantity":1,"metadata":{"\\udfff":1}}',
        "metadata",
    ),
    "unknown field": (raw(quantitty=1), "quantitty"),
    "dry_run is text": (raw(dry_run="yes"), "dry_run"),
    "occurred_at without zone": (raw(occurred_at="2026-01-01T00:00:00"), "occurred_at"),
    "occurred_at that never was": (raw(occurred_at="2026-02-30T00:00:00Z"), "occurred_at"),
    "duplicate key": (b'{"customer_id":"acme","meter":"tokens","quantity":1,"quantity":2}', "quantity"),
    "duplicate key inside": (b'{"customer_id":"acme","meter":"tokens","quantity":1,"metadata":{"a":1,"a":2}}', "a"),
    "invalid UTF-8": (b'{"customer_id":"\xff","meter":"tokens","quantity":1}', None),
    "deep nesting": (b'{"customer_id":"acme","metadata":' + b"[" * 30_000 + b"]" * 30_000 + b"}", None),
    "no JSON": (b"quantity=1", None),
    "nothing": (b"", None),
    "a list": (b"[]", "body"),
    "two values": (b"{} {}", None),
}


@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/usage"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field_and_writes_nothing(api, name, path):
    api.contract()
    before = api.outbox_entries()
    body, field = BAD[name]
    scope = "decide" if path.endswith("decisions") else "usage"
    response = api.http.post(path, content=body, headers=api.headers(scope))
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem.get("field") == field
    assert problem["detail"]
    assert api.outbox_entries() == before


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer nonsense", 401),
        ("Bearer sg_0123456789abcdef_" + "x" * 43, 401),
        ("Basic dXNlcjpwYXNz", 401),
        ("Bearer " + "x" * 5000, 401),
        ("read", 403),
        ("usage", 403),
    ],
)
def test_a_wrong_or_missing_key_is_refused(api, authorization, status):
    api.contract()
    before = api.outbox_entries()
    headers = {"authorization": authorization} if authorization is not None else {}
    if authorization in api.keys:
        headers = api.headers(authorization)
    response = api.http.post("/v1/decisions", json=GOOD, headers=headers)
    assert response.status_code == status
    assert response.json()["detail"]
    assert api.outbox_entries() == before


def test_a_revoked_key_stops_working(api):
    api.contract()
    key = api.store.keys.create("temp", ["decide"], 0)
    api.store.keys.revoke(key.split("_")[1], 1)
    assert api.http.post("/v1/decisions", json=GOOD, headers={"authorization": f"Bearer {key}"}).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/decisions", 405),
        ("GET", "/v1/decisions?limit=0", 422),
        ("GET", "/v1/decisions?limit=201", 422),
        ("GET", "/v1/decisions?cursor=x", 422),
        ("GET", "/v1/decisions?outcome=maybe", 422),
        ("GET", "/v1/decisions?colour=red", 422),
        ("GET", "/v1/decisions?from=yesterday", 422),
        ("GET", "/v1/decisions/d000-1-1", 404),
        ("GET", "/v1/decisions/%00", 404),
        ("GET", "/v1/customers?cursor=AAAA", 422),
        ("GET", "/v1/customers/nobody", 404),
        ("GET", "/v1/customers/acme/usage?meter=nope", 422),
        ("GET", "/v1/customers/acme/usage?meter=tokens&step=minute&from=2020-01-01T00:00:00Z", 422),
        ("GET", "/v1/guardrail-events?kind=odd", 422),
        ("GET", "/v1/overrides?active=perhaps", 422),
    ],
)
def test_bad_reads_are_problems_too(api, method, path, status):
    api.contract()
    response = api.http.request(method, path, headers=api.headers("read"))
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"


def test_every_route_but_the_public_ones_needs_a_key(api):
    paths = api.get("/schema/openapi.json").json()["paths"]
    public = {"/healthz", "/readyz", "/webhooks/usagebox", "/v1/sessions"}
    assert "/v1/decisions" in paths
    for path, methods in paths.items():
        for method in methods:
            response = api.http.request(method, path.replace("{", "").replace("}", ""))
            if path in public:
                continue
            assert response.status_code == 401, (method, path, response.text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
FIELDS = ["customer_id", "meter", "quantity", "quantities", "metadata", "event_id", "occurred_at", "dry_run", "x"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.booleans())
def test_no_input_at_all_is_a_server_error(api, changes, based_on_good):
    api.contract()
    event = GOOD | changes if based_on_good else changes
    response = api.http.post("/v1/decisions", content=json.dumps(event).encode(), headers=api.headers("decide"))
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
