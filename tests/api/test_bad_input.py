"""Bad input: 4xx problem details that name the field, nothing written, never a 5xx."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = {"customer_id": "acme", "meter": "tokens", "quantity": 1}


def raw(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


def without(*names) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name not in names}).encode()


def quantity(text: str) -> bytes:
    return b'{"customer_id":"acme","meter":"tokens","quantity":' + text.encode() + b"}"


BAD = {
    "negative": (raw(quantity=-1), "quantity"),
    "zero": (raw(quantity=0), "quantity"),
    "minus zero": (quantity("-0"), "quantity"),
    "fraction": (raw(quantity=1.5), "quantity"),
    "whole fraction": (raw(quantity=2.0), "quantity"),
    "huge": (raw(quantity=10**13), "quantity"),
    "beyond 2^53": (raw(quantity=2**53 + 1), "quantity"),
    "beyond 2^64": (raw(quantity=2**64), "quantity"),
    "boolean": (raw(quantity=True), "quantity"),
    "text": (raw(quantity="5"), "quantity"),
    "hex text": (raw(quantity="0x10"), "quantity"),
    "null": (raw(quantity=None), "quantity"),
    "list": (raw(quantity=[1]), "quantity"),
    "object": (raw(quantity={"value": 1}), "quantity"),
    "hex": (quantity("0x10"), None),
    "leading zero": (quantity("007"), None),
    "plus": (quantity("+1"), None),
    "NaN": (quantity("NaN"), None),
    "Infinity": (quantity("-Infinity"), None),
    "whole exponent": (quantity("1e2"), "quantity"),
    "exponent": (quantity("1e400"), "quantity"),
    "ten thousand digits": (quantity("9" * 10_000), None),
    "unknown meter": (raw(meter="token"), "meter"),
    "unknown meter of quantities": (
        json.dumps({"customer_id": "acme", "quantities": {"token": 1}}).encode(),
        "quantities.token",
    ),
    "one unknown meter of two": (
        json.dumps({"customer_id": "acme", "quantities": {"tokens": 1, "token": 1}}).encode(),
        "quantities.token",
    ),
    "meter is a list": (raw(meter=["tokens"]), "meter"),
    "no meter": (without("meter"), "meter"),
    "no quantity": (without("quantity"), "quantity"),
    "no customer": (without("customer_id"), "customer_id"),
    "customer is null": (raw(customer_id=None), "customer_id"),
    "empty customer": (raw(customer_id=""), "customer_id"),
    "customer is a number": (raw(customer_id=5), "customer_id"),
    "customer is long": (raw(customer_id="x" * 257), "customer_id"),
    "customer is long in bytes": (raw(customer_id="é" * 129), "customer_id"),
    "control character": (raw(customer_id="a\nb"), "customer_id"),
    "NUL": (raw(customer_id="a\0b"), "customer_id"),
    "lone surrogate": (b'{"customer_id":"\\ud800","meter":"tokens","quantity":1}', "customer_id"),
    "event_id is null": (raw(event_id=None), "event_id"),
    "event_id is a number": (raw(event_id=7), "event_id"),
    "event_id is long": (raw(event_id="x" * 300), "event_id"),
    "event_id fills the body": (raw(event_id="x" * 60_000), "event_id"),
    "a megabyte": (raw(customer_id="x" * 1_000_000), None),
    "both meter and quantities": (raw(quantities={"tokens": 1}), "quantities"),
    "quantities is a list": (json.dumps({"customer_id": "acme", "quantities": [1]}).encode(), "quantities"),
    "quantities is null": (json.dumps({"customer_id": "acme", "quantities": None}).encode(), "meter"),
    "empty quantities": (json.dumps({"customer_id": "acme", "quantities": {}}).encode(), "quantities"),
    "too many quantities": (
        json.dumps({"customer_id": "acme", "quantities": {f"m{n}": 1 for n in range(17)}}).encode(),
        "quantities",
    ),
    "bad one of quantities": (
        json.dumps({"customer_id": "acme", "quantities": {"tokens": -1}}).encode(),
        "quantities.tokens",
    ),
    "nested metadata": (raw(metadata={"a": {"b": 1}}), "metadata.a"),
    "metadata is a list": (raw(metadata=[1]), "metadata"),
    "too much metadata": (raw(metadata={f"k{n}": 1 for n in range(33)}), "metadata"),
    "long metadata": (raw(metadata={"a": "x" * 1025}), "metadata.a"),
    "metadata number": (raw(metadata={"context_window": -5}), "metadata.context_window"),
    "metadata fraction for a number": (raw(metadata={"context_window": 5.5}), "metadata.context_window"),
    "metadata boolean for a number": (raw(metadata={"context_window": True}), "metadata.context_window"),
    "metadata text for a number": (raw(metadata={"context_window": "5"}), "metadata.context_window"),
    "metadata too large a number": (raw(metadata={"a": 10**16}), "metadata.a"),
    "metadata surrogate key": (
        b'{"customer_id":"acme","meter":"tokens","quantity":1,"metadata":{"\\udfff":1}}',
        "metadata",
    ),
    "metadata surrogate value": (
        b'{"customer_id":"acme","meter":"tokens","quantity":1,"metadata":{"a":"\\ud83d"}}',
        "metadata.a",
    ),
    "unknown field": (raw(quantitty=1), "quantitty"),
    "unknown field of half a character": (b'{"customer_id":"acme","\\ud800":1}', "?"),
    "who as a field": (raw(principal="me"), "principal"),
    "dry_run is text": (raw(dry_run="yes"), "dry_run"),
    "dry_run is a number": (raw(dry_run=1), "dry_run"),
    "occurred_at without zone": (raw(occurred_at="2026-01-01T00:00:00"), "occurred_at"),
    "occurred_at is a number": (raw(occurred_at=1767225600), "occurred_at"),
    "occurred_at that never was": (raw(occurred_at="2026-02-30T00:00:00Z"), "occurred_at"),
    "occurred_at before the first year": (raw(occurred_at="0001-01-01T00:00:00+14:00"), "occurred_at"),
    "occurred_at after the last year": (raw(occurred_at="9999-12-31T23:59:59-14:00"), "occurred_at"),
    "duplicate key": (b'{"customer_id":"acme","meter":"tokens","quantity":1,"quantity":2}', "quantity"),
    "duplicate key inside": (b'{"customer_id":"acme","meter":"tokens","quantity":1,"metadata":{"a":1,"a":2}}', "a"),
    "duplicate key in another spelling": (
        b'{"customer_id":"acme","meter":"tokens","quantity":1,"\\u0071uantity":2}',
        "quantity",
    ),
    "invalid UTF-8": (b'{"customer_id":"\xff","meter":"tokens","quantity":1}', None),
    "overlong UTF-8": (b'{"customer_id":"\xc0\x80","meter":"tokens","quantity":1}', None),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), None),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), None),
    "deep nesting": (b'{"customer_id":"acme","metadata":' + b"[" * 30_000 + b"]" * 30_000 + b"}", None),
    "nesting below the reader's own limit": (b'{"metadata":' + b"[" * 100 + b"]" * 100 + b"}", None),
    "no JSON": (b"quantity=1", None),
    "half of it": (b'{"customer_id":"acme","meter":"tokens","quantity":1', None),
    "nothing": (b"", None),
    "null body": (b"null", "body"),
    "a list": (b"[]", "body"),
    "two values": (b"{} {}", None),
}


def is_problem(response, status=None) -> bool:
    problem = response.json()
    return (
        response.headers["content-type"] == "application/problem+json"
        and problem["status"] == response.status_code == (status or response.status_code)
        and bool(problem["title"] and problem["detail"])
        and problem["type"].startswith("https://")
    )


@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/usage"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field_and_writes_nothing(standing_api, name, path):
    api, (body, field) = standing_api, BAD[name]
    before = api.outbox_entries()
    scope = "decide" if path.endswith("decisions") else "usage"
    response = api.http.post(path, content=body, headers=api.headers(scope))
    assert 400 <= response.status_code < 500, response.text
    assert is_problem(response)
    assert response.json().get("field") == field
    assert api.outbox_entries() == before


def test_every_bad_event_of_a_batch_has_its_own_problem(standing_api):
    before = standing_api.outbox_entries()
    events = [GOOD | {"quantity": -1}, GOOD | {"customer_id": ""}, 7, None, GOOD | {"x": 1}, {}]
    response = standing_api.post("/v1/decisions/batch", {"events": events})
    assert response.status_code == 200
    problems = [result["problem"] for result in response.json()["results"]]
    assert [problem["field"] for problem in problems] == ["quantity", "customer_id", "events", "events", "x", "meter"]
    assert {result["status"] for result in response.json()["results"]} == {422}
    assert standing_api.outbox_entries() == before


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": {}}, {"events": [GOOD] * 101}, {"events": [], "x": 1}])
def test_a_bad_batch_is_refused_as_a_whole(standing_api, body):
    before = standing_api.outbox_entries()
    response = standing_api.post("/v1/decisions/batch", body)
    assert is_problem(response, 422)
    assert response.json()["field"] in ("events", "x")
    assert standing_api.outbox_entries() == before


def test_usage_that_happened_can_not_be_tried_out(standing_api):
    response = standing_api.post("/v1/usage", GOOD | {"dry_run": True}, scope="usage")
    assert (response.status_code, response.json()["field"]) == (422, "dry_run")


@pytest.mark.parametrize("key", ["", "x" * 257])
def test_a_bad_idempotency_key_is_named_as_what_it_is(standing_api, key):
    before = standing_api.outbox_entries()
    response = standing_api.post("/v1/decisions", GOOD, headers={"idempotency-key": key})
    assert (response.status_code, response.json()["field"]) == (422, "Idempotency-Key")
    assert standing_api.outbox_entries() == before


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer nonsense", 401),
        ("Bearer sg_0123456789abcdef_" + "x" * 43, 401),
        ("Bearer sg_0123456789abcdef_" + "x" * 43 + " x", 401),
        ("Basic dXNlcjpwYXNz", 401),
        ("Bearer " + "x" * 5000, 401),
        (b"Bearer \xff", 401),
        ("read", 403),
        ("usage", 403),
    ],
)
def test_a_wrong_or_missing_key_is_refused(standing_api, authorization, status):
    api = standing_api
    before = api.outbox_entries()
    headers = {"authorization": authorization} if authorization is not None else {}
    if authorization in api.keys:
        headers = api.headers(authorization)
    response = api.http.post("/v1/decisions", json=GOOD, headers=headers)
    assert is_problem(response, status)
    assert api.outbox_entries() == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "//v1/decisions", 404),
        ("DELETE", "/v1/decisions", 405),
        ("GET", "/v1/usage", 405),
        ("GET", "/v1/decisions/batch", 405),
        ("OPTIONS", "/v1/decisions", 405),
        ("GET", "/v1/decisions?limit=0", 422),
        ("GET", "/v1/decisions?limit=201", 422),
        ("GET", "/v1/decisions?limit=0000002009999999", 422),
        ("GET", "/v1/decisions?limit=1&limit=2", 422),
        ("GET", "/v1/decisions?limit=%C2%B2", 422),
        ("GET", "/v1/decisions?cursor=x", 422),
        ("GET", "/v1/decisions?cursor=99999999999999999999", 422),
        ("GET", "/v1/decisions?outcome=maybe", 422),
        ("GET", "/v1/decisions?reason=%00", 422),
        ("GET", "/v1/decisions?colour=red", 422),
        ("GET", "/v1/decisions?from=yesterday", 422),
        ("GET", "/v1/decisions?from=0001-01-01T00:00:00%2B14:00", 422),
        ("GET", "/v1/decisions/d000-1-1", 404),
        ("GET", "/v1/decisions/%00", 404),
        ("GET", "/v1/customers?cursor=AAAA", 422),
        ("GET", "/v1/customers?cursor=Wzk5OTk5OTk5OTk5OTk5OTk5OTk5OTksImEiXQ==", 422),
        ("GET", "/v1/customers?q=%00", 422),
        ("GET", "/v1/customers?q=" + "x" * 600, 422),
        ("GET", "/v1/customers/nobody", 404),
        ("GET", "/v1/customers/%00", 404),
        ("GET", "/v1/customers/acme/usage", 422),
        ("GET", "/v1/customers/acme/usage?meter=nope", 422),
        ("GET", "/v1/customers/%00/usage?meter=tokens", 404),
        ("GET", "/v1/customers/a%00b/reservations", 404),
        ("GET", "/v1/decisions/a%00b/corrections", 404),
        ("GET", "/v1/repairs/a%00b", 404),
        ("GET", "/v1/repairs?limit=" + "0" * 40 + "9", 422),
        ("GET", "/v1/books?cursor=99999999999999999999.acme", 422),
        ("GET", "/v1/books?cursor=3000000000.acme", 422),
        ("GET", "/v1/books?cursor=-1.acme", 422),
        ("GET", "/v1/books?limit=000000200" + "9" * 30, 422),
        ("GET", "/v1/customers/acme/usage?meter=tokens&step=minute&from=2020-01-01T00:00:00Z", 422),
        ("GET", "/v1/customers/acme/usage?meter=tokens&to=9999-12-31T23:59:59-14:00", 422),
        ("GET", "/v1/guardrail-events?kind=odd", 422),
        ("GET", "/v1/overrides?active=perhaps", 422),
    ],
)
@pytest.mark.parametrize("standing_api", ["sqlite", "postgresql"], indirect=True)
def test_bad_reads_are_problems_too(standing_api, method, path, status):
    response = standing_api.http.request(method, path, headers=standing_api.headers("read"))
    assert is_problem(response, status), response.text


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"token":7}', b'{"token":"\\ud800"}', b'{"token":"x","y":1}', b'{"token":"' + b"x" * 129],
)
def test_nobody_signs_in_with_nonsense(standing_api, body):
    response = standing_api.http.post("/v1/sessions", content=body)
    assert response.status_code in (400, 401, 422)
    assert is_problem(response)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{",
        b'{"context":[]}',
        b'{"context":{"targetingKey":7}}',
        b'{"context":{"targetingKey":"\\ud800"}}',
        b'{"context":{"targetingKey":"acme","x":"\\ud800"}}',
        b'{"context":{"targetingKey":"acme","x":NaN}}',
        b'{"context":{"targetingKey":"acme","x":' + b"[" * 500 + b"]" * 500 + b"}}",
    ],
)
@pytest.mark.parametrize("path", ["/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/billing.hard-stop"])
def test_a_bad_flag_request_is_an_error_that_ofrep_knows(standing_api, path, body):
    response = standing_api.http.post(path, content=body, headers=standing_api.headers("flags"))
    assert response.status_code == 400
    assert response.json()["errorCode"] in ("PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
FIELDS = ["customer_id", "meter", "quantity", "quantities", "metadata", "event_id", "occurred_at", "dry_run", "x"]
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.booleans())
def test_no_event_at_all_is_a_server_error(standing_api, changes, based_on_good):
    event = GOOD | changes if based_on_good else changes
    tried(standing_api, json.dumps(event).encode())


@QUIET
@given(st.binary(max_size=40), st.integers(0, len(raw())), st.integers(0, len(raw())))
def test_no_bytes_at_all_are_a_server_error(standing_api, noise, start, end):
    good = raw(customer_id="noise")
    tried(standing_api, good[: min(start, end)] + noise + good[max(start, end) :])


def tried(api, body: bytes) -> None:
    before = api.outbox_entries()
    response = api.http.post("/v1/decisions", content=body, headers=api.headers("decide"))
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert is_problem(response)
        assert api.outbox_entries() == before
