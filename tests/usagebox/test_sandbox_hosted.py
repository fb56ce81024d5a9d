"""What only the hosted service has: keys, a catalog, policies and their flags."""

from __future__ import annotations

import httpx
import pytest

from sandboxes import KEY, running_sandbox

SUBSCRIPTION = {"customer_id": "acme", "plan_id": "plan.pro", "starts_at": "2026-01-01"}
FLAG = {
    "customer_id": "acme",
    "policy": "hard-stop",
    "reason": "the month's tokens are used up",
    "decision_id": "dec_1",
    "occurred_at": "2026-11-18T12:00:00Z",
}


@pytest.fixture
def sandbox(tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", "hosted") as sandbox:
        yield sandbox


def test_metering_wants_a_bearer_and_the_catalog_its_own_header(sandbox):
    with httpx.Client(base_url=sandbox.url) as http:
        bearer, header = {"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}
        for path in ("/v1/accounts/acme/periods/2026-11", "/sandbox/v1/flag-events"):
            assert http.get(path, headers=bearer).status_code == 200
            for wrong in ({}, header, {"authorization": "Bearer wrong"}, {"authorization": KEY + "x"}):
                answer = http.get(path, headers=wrong)
                assert (answer.status_code, answer.text) == (401, "Unauthorized")
        for path in ("/api/v1/policies", "/api/v1/subscriptions"):
            assert http.get(path, headers=header).status_code == 200
            for wrong in ({}, bearer, {"x-api-key": "wrong"}):
                assert http.get(path, headers=wrong).status_code == 401
        assert (http.get("/health").text, http.get("/health").headers["content-type"][:10]) == ("OK", "text/plain")


def test_usagedb_alone_has_no_keys_no_catalog_and_no_policies(tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", "usagedb") as sandbox, httpx.Client(base_url=sandbox.url) as http:
        assert http.get("/v1/accounts/acme/periods/2026-11").status_code == 200
        assert http.post("/v1/usage/batch", json={"events": [sandbox.event("e1")]}).json()["accepted"] == 1
        headers = {"x-api-key": KEY, "idempotency-key": "k"}
        for method, path in (
            ("GET", "/api/v1/policies"),
            ("POST", "/api/v1/policies/flags"),
            ("DELETE", "/api/v1/policies/flags"),
            ("GET", "/api/v1/subscriptions"),
            ("POST", "/api/v1/usage"),
        ):
            body = FLAG if method != "GET" else None
            answer = http.request(method, path, headers=headers, json=body)
            assert answer.status_code == 404, path
            assert answer.headers["content-type"].startswith("text/plain")


def test_a_subscription_needs_a_customer_a_plan_and_a_day(sandbox):
    http = sandbox.http
    for name in SUBSCRIPTION:
        body = {key: value for key, value in SUBSCRIPTION.items() if key != name}
        answer = http.post("/api/v1/subscriptions", json=body)
        assert (answer.status_code, name in answer.text) == (422, True)
    for day in ("2026-1-1", "2026-01-01T00:00:00Z", "tomorrow"):
        assert http.post("/api/v1/subscriptions", json=SUBSCRIPTION | {"starts_at": day}).status_code == 422
    assert http.post("/api/v1/subscriptions", json=[]).status_code == 422
    assert http.post("/api/v1/products", json={"name": "AI"}).status_code == 422
    assert http.post("/api/v1/products", json={"name": "AI", "code": "ai"}).json()["id"] == "ai"


def test_a_customer_may_have_several_subscriptions_and_each_can_change(sandbox):
    http = sandbox.http
    made = [
        http.post("/api/v1/subscriptions", json=SUBSCRIPTION | {"external_reference": str(n)}).json() for n in (1, 2)
    ]
    path = f"/api/v1/subscriptions/{made[0]['id']}"
    assert http.patch(path, json={"plan_id": "plan.basic"}).json()["plan_id"] == "plan.basic"
    assert http.patch(path, json={"starts_at": "soon"}).status_code == 422
    assert http.patch("/api/v1/subscriptions/nobody", json={}).status_code == 404
    listed = http.get("/api/v1/subscriptions").json()["subscriptions"]
    assert sorted((each["external_reference"], each["plan_id"]) for each in listed) == [
        ("1", "plan.basic"), ("2", "plan.pro"),
    ]  # fmt: skip


def test_lists_of_the_catalog_come_in_pages(sandbox, monkeypatch):
    monkeypatch.setattr("spendgate_daemon.sandbox.catalog.PAGE", 2)
    for number in range(5):
        sandbox.http.post("/api/v1/subscriptions", json=SUBSCRIPTION | {"id": f"s{number}"})
    found, cursor, pages = [], "", 0
    while cursor is not None:
        answer = sandbox.http.get("/api/v1/subscriptions", params={"cursor": cursor}).json()
        found += [each["id"] for each in answer["subscriptions"]]
        cursor, pages = answer.get("next_cursor"), pages + 1
    assert (found, pages) == ([f"s{number}" for number in range(5)], 3)


def test_catalog_usage_takes_a_list_with_unknown_keys(sandbox):
    item = {"subscription": "sub.x", "product_item": "item.y", "meter": "meter.z", "value": 42, "colour": "red"}
    answer = sandbox.http.post("/api/v1/usage", json=[item])
    assert (answer.status_code, answer.text) == (200, "Usage batch accepted")
    for body in ({}, [5], "x"):
        assert sandbox.http.post("/api/v1/usage", json=body).status_code == 422
    for kind in ("invoices", "secrets"):
        assert sandbox.http.get(f"/api/v1/{kind}").status_code == 404
        assert sandbox.http.post(f"/api/v1/{kind}", json={}).status_code == 404


def test_policies_page_by_cursor_in_the_order_of_changes(sandbox, monkeypatch):
    monkeypatch.setattr("spendgate_daemon.sandbox.customers.PAGE", 2)
    http = sandbox.http
    for number in range(5):
        http.put(f"/sandbox/v1/customers/c{number}", json={"plan": "basic"})
    http.put("/sandbox/v1/customers/c0", json={"caps": {"tokens": 5}})
    found, cursor = [], None
    while True:
        page = http.get("/api/v1/policies", params={"updated_since": cursor} if cursor else {}).json()
        if not page["policies"]:
            break
        assert len(page["policies"]) <= 2
        found += [(state["customer_id"], state["version"]) for state in page["policies"]]
        cursor = page["next_cursor"]
    assert found == [("c1", 1), ("c2", 1), ("c3", 1), ("c4", 1), ("c0", 2)]
    assert page["next_cursor"] == cursor, "nothing more: the same cursor again"
    for bad in ("x", "-1", "²"):
        answer = http.get("/api/v1/policies", params={"updated_since": bad})
        assert (answer.status_code, answer.headers["content-type"][:10]) == (400, "text/plain")


def test_a_policy_state_has_these_fields(sandbox):
    http = sandbox.http
    http.put("/sandbox/v1/customers/acme", json={"name": "Acme", "plan": "pro", "caps": {"tokens": 5}})
    http.post("/sandbox/v1/customers/acme/credits", json={"amount": 70})
    http.post("/api/v1/policies/flags", json=FLAG, headers={"idempotency-key": "k1"})
    sandbox.send(sandbox.event("e1"))
    [state] = http.get("/api/v1/policies").json()["policies"]
    assert state.pop("updated_at").endswith("Z")
    [flag] = state.pop("flags")
    assert (set(flag), flag["policy"]) == ({"policy", "reason", "raised_at"}, "hard-stop")
    assert state == {
        "customer_id": "acme",
        "name": "Acme",
        "plan": "pro",
        "status": "active",
        "credits_granted_total": 70,
        "credit_balance": 70,
        "caps": {"tokens": 5},
        "version": 2,
    }, "two changes; a flag and usage make none"


def test_a_sandbox_without_policies_answers_404_and_still_has_its_catalog(tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", with_policies=False) as sandbox:
        assert sandbox.http.get("/api/v1/policies").status_code == 404
        assert sandbox.http.get("/api/v1/subscriptions").status_code == 200


def test_flags_want_an_idempotency_key_and_all_their_fields(sandbox):
    http, path = sandbox.http, "/api/v1/policies/flags"
    for method in ("POST", "DELETE"):
        answer = http.request(method, path, json=FLAG)
        assert (answer.status_code, "Idempotency-Key" in answer.text) == (400, True)
    for name in FLAG:
        body = {key: value for key, value in FLAG.items() if key != name}
        assert http.post(path, json=body, headers={"idempotency-key": "k"}).status_code == 422, name
    for name in ("customer_id", "policy"):
        body = {key: value for key, value in FLAG.items() if key != name}
        assert http.request("DELETE", path, json=body, headers={"idempotency-key": "k"}).status_code == 422, name
    assert http.get("/sandbox/v1/flag-events").json()["items"] == []


def test_a_flag_is_raised_and_cleared_once_per_key(sandbox):
    http, path = sandbox.http, "/api/v1/policies/flags"
    for key in ("k1", "k1"):
        assert http.post(path, json=FLAG, headers={"idempotency-key": key}).status_code == 201
    for key in ("k1", "k2", "k2"):
        cleared = {"customer_id": "acme", "policy": "hard-stop"}
        assert http.request("DELETE", path, json=cleared, headers={"idempotency-key": key}).status_code == 200
    kinds = [item["kind"] for item in http.get("/sandbox/v1/flag-events").json()["items"]]
    assert kinds == ["raised", "cleared", "cleared"]


def test_a_person_changes_customers_and_versions_grow_by_one(sandbox):
    path = "/sandbox/v1/customers/acme"
    http = sandbox.http
    assert http.put(path, json={"name": "Acme"}).status_code == 404, "a new one needs a plan"
    assert http.put(path, json={"plan": "pro", "colour": "red"}).status_code == 422
    assert http.put(path, json={"plan": "pro"}).json()["version"] == 1
    assert http.put(path, json={"plan": "pro"}).json()["version"] == 1, "nothing changed"
    assert http.put(path, json={"status": "suspended"}).json()["version"] == 2
    for amount in (0, -5, 1.5, "10", None):
        assert http.post(f"{path}/credits", json={"amount": amount}).status_code == 422
    assert http.delete(path).json() == {"removed": True}
    assert http.delete(path).json() == {"removed": False}
    assert http.get(path).status_code == 404
