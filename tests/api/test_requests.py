"""What surrounds a request: methods, bodies that are too large or never end, headers on every answer, ids in paths."""

from __future__ import annotations

import asyncio
import json

import pytest

from spendgate_daemon.api import asgi, create_app

GOOD = json.dumps({"customer_id": "acme", "meter": "tokens", "quantity": 1}).encode()
PATHS = ["/v1/decisions", "/v1/overrides", "/webhooks/usagebox", "/v1/sessions", "/ofrep/v1/evaluate/flags"]


async def ask(app, path, messages, headers=()):
    """Call the app as a server does, with these messages and then silence; what it sent."""
    sent, waiting = [], list(messages)

    async def receive():
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in dict(headers).items()],
    }
    await app(scope, receive, send)
    return sent


def chunk(body=b"", *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


def test_every_answer_has_the_security_headers(standing_api):
    api = standing_api
    answers = [
        api.http.post("/v1/decisions", content=b"x", headers=api.headers("decide")),
        api.post("/v1/decisions", {"customer_id": "acme", "meter": "tokens", "quantity": 1, "dry_run": True}),
        api.get("/v1/customers"),
        api.get("/v1/nothing"),
        api.http.get("/v1/customers"),
        api.http.request("OPTIONS", "/v1/decisions"),
        api.http.get("/healthz"),
        api.get("/metrics"),
    ]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "www-authenticate" in answer.headers or answer.status_code != 401


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/decisions", "GET, HEAD, POST"),
        ("/v1/decisions/batch", "POST"),
        ("/v1/usage", "POST"),
        ("/v1/decisions/d000-1-1", "GET, HEAD"),
        ("/v1/customers/acme", "GET, HEAD, PUT"),
        ("/v1/overrides/x", "DELETE"),
        ("/healthz", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_there_is_405_and_says_which_are(standing_api, path, allowed):
    for method in ("PATCH", "OPTIONS", "TRACE"):
        answer = standing_api.http.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_head_is_get_without_a_body(standing_api):
    answer = standing_api.http.head("/v1/customers", headers=standing_api.headers("read"))
    assert (answer.status_code, answer.content) == (200, b"")
    assert standing_api.http.head("/v1/customers").status_code == 401


def test_a_slash_at_the_end_changes_nothing(standing_api):
    body = {"customer_id": "acme", "meter": "tokens", "quantity": 1, "dry_run": True}
    assert standing_api.post("/v1/decisions/", body).json()["decision"] == "allow"
    assert standing_api.get("/v1/customers/").status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused_before_it_is_read(standing_api, path, announced):
    body = b"x" * 70_000
    content = body if announced else iter([body[:40_000], body[40_000:]])
    answer = standing_api.http.post(path, content=content, headers=standing_api.headers("admin"))
    assert answer.status_code == 413
    assert answer.json()["type"].endswith("/too-large")


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_never_ends_is_not_waited_for(standing_api, run, monkeypatch, path):
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.05)
    app = create_app(standing_api.services)
    sent = run(ask(app, path, [chunk(GOOD, more=True)], standing_api.headers("admin")))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize("path", PATHS)
def test_a_part_of_a_body_is_never_acted_upon(standing_api, run, path):
    before = standing_api.outbox_entries()
    app = create_app(standing_api.services)
    messages = [chunk(GOOD, more=True), {"type": "http.disconnect"}]
    assert run(ask(app, path, messages, standing_api.headers("admin"))) == []
    assert standing_api.outbox_entries() == before


@pytest.mark.parametrize("length", ["99999999999999999999", "70000"])
def test_an_announced_length_is_believed_when_it_is_too_much(standing_api, run, length):
    app = create_app(standing_api.services)
    headers = standing_api.headers("admin") | {"content-length": length}
    assert run(ask(app, "/v1/decisions", [], headers))[0]["status"] == 413


def test_the_scheme_of_a_key_has_no_case(standing_api):
    key = standing_api.keys["read"]
    assert standing_api.http.get("/v1/me", headers={"authorization": f"bearer {key}"}).status_code == 200


def test_an_id_may_have_a_slash(api):
    api.contract("org/team eu")
    assert api.get("/v1/customers/org%2Fteam%20eu").json()["customer_id"] == "org/team eu"
    api.decide(3, customer="org/team eu")
    api.relay_all()
    usage = api.get("/v1/customers/org%2Fteam%20eu/usage", meter="tokens").json()
    assert sum(point["used"] for point in usage["points"]) == 3
    put = api.http.put("/v1/customers/a%2Fb", json={"plan": "basic"}, headers=api.headers("admin"))
    assert put.json()["customer_id"] == "a/b"
