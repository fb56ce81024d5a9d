"""The ASGI middleware, on a real Redis: called as a server calls it, and once under a real server."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from house import policy_of, quota, rate
from serving import serve
from spendgate import Denied, Gate, UnknownMeter
from spendgate.asgi import GateMiddleware
from spendgate.testing import FakeGate

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def contract(house):
    """A customer with 1,000 tokens a day, at most 100 at once."""
    house.contract(policy_of(quota(1000), rate(burst=100)))
    return house


def customer_of(scope):
    """As if authentication had put it there."""
    return scope.get("customer")


def wrapped(app, gate, **terms):
    return GateMiddleware(app, **{"gate": gate, "customer": customer_of, "meter": "tokens", "quantity": 10} | terms)


async def hello(scope, receive, send):
    """Answers what it finds in the scope's state."""
    decision = scope.get("state", {}).get("spendgate_decision")
    body = {"outcome": decision and decision.outcome, "state": sorted(scope.get("state", {}))}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def asked(app, path="/v1/chat", customer="acme", **scope):
    """Status, headers and JSON body of one request."""
    sent = []
    given = {"type": "http", "method": "POST", "path": path, "headers": [], "customer": customer} | scope

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(given, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def left(house) -> int:
    return house.run(house.gate.snapshot("acme")).limits()[0].remaining


def test_an_allowed_request_reaches_the_application_with_its_decision(contract):
    status, _, body = contract.run(asked(wrapped(hello, contract.gate), state={"user": "u-1"}))
    assert status == 200
    assert body == {"outcome": "allow", "state": ["spendgate_decision", "spendgate_run", "user"]}
    assert left(contract) == 990


def test_a_throttled_request_is_told_when_to_come_again(contract):
    contract.contract(policy_of(quota(1000), rate(units=6, burst=100)), version=2)
    app = wrapped(hello, contract.gate, quantity=lambda scope: int(scope["query_string"]))
    contract.run(asked(app, query_string=b"100"))
    status, headers, body = contract.run(asked(app, query_string=b"50"))
    assert status == 429
    assert int(headers["retry-after"]) == body["retry_after_seconds"]
    assert 300 < body["retry_after_seconds"] <= 500
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "no-store"
    assert int(headers["content-length"]) > 0
    assert body["type"] == "https://spendgate.dev/problems/throttled"
    assert (body["status"], body["decision"], body["reason"], body["limit_id"]) == (
        429,
        "throttle",
        "rate_exceeded",
        "tokens-rate",
    )
    assert body["detail"].startswith("Limit tokens-rate: the event asks for 50 tokens")
    assert left(contract) == 900


def test_an_exhausted_limit_is_402_with_what_would_help(contract):
    contract.contract(policy_of(quota(15)), version=2)
    app = wrapped(hello, contract.gate)
    assert contract.run(asked(app))[0] == 200
    status, headers, body = contract.run(asked(app))
    assert (status, body["reason"], body["unblock"]["short"]) == (402, "quota_exceeded", 5)
    assert "retry-after" not in headers
    assert contract.run(contract.gate.snapshot("acme")).limits()[0].used == 10


@pytest.mark.parametrize(
    ("fields", "terms", "reason"),
    [
        ({"status": "suspended"}, {}, "customer_suspended"),
        ({}, {"metadata": {"model": "m-9"}}, "model_not_allowed"),
        ({}, {"metadata": lambda scope: {"model": scope["path"].rpartition("/")[2]}}, "model_not_allowed"),
    ],
)
def test_what_is_forbidden_whatever_is_paid_is_403(contract, fields, terms, reason):
    contract.contract(policy_of(models=("m-1",)), version=2, **fields)
    status, _, body = contract.run(asked(wrapped(hello, contract.gate, **terms)))
    assert (status, body["reason"], body["type"]) == (403, reason, "https://spendgate.dev/problems/stopped")


def test_a_request_for_no_customer_is_refused_and_not_let_through(contract):
    status, _, body = contract.run(asked(wrapped(hello, contract.gate), customer=None))
    assert (status, body["type"]) == (403, "https://spendgate.dev/problems/no-customer")


@pytest.mark.parametrize(
    ("paths", "decided"),
    [
        (("*",), True),
        (("/v1/*",), True),
        (("/v1/chat",), True),
        (("/v1/chat/more", "/v2/*"), False),
        (lambda scope: scope["method"] == "POST", True),
        (lambda scope: scope["method"] == "GET", False),
    ],
)
def test_paths_choose_what_is_decided(contract, paths, decided):
    status, _, body = contract.run(asked(wrapped(hello, contract.gate, paths=paths)))
    assert (status, body["outcome"]) == (200, "allow" if decided else None)
    assert left(contract) == (990 if decided else 1000)


def test_several_meters_under_an_id_of_the_applications_own_are_debited_once(contract):
    terms = {"meter": None, "quantities": {"tokens": 10, "runs": 1}, "event_id": lambda scope: scope["job"]}
    app = wrapped(hello, contract.gate, **terms)
    assert [contract.run(asked(app, job="j-1"))[0] for _ in range(3)] == [200] * 3
    assert left(contract) == 990
    other = wrapped(hello, contract.gate, event_id=lambda scope: scope["job"])
    assert contract.run(asked(other, job="j-1"))[0] == 409


def test_the_trace_context_of_a_request_goes_with_its_event(contract):
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = [(b"traceparent", traceparent.encode())]
    contract.run(asked(wrapped(hello, contract.gate), headers=headers))
    assert contract.records()[-1].event.traceparent == traceparent


def test_input_that_is_no_event_is_422_and_a_wrong_meter_is_raised(contract):
    status, _, body = contract.run(asked(wrapped(hello, contract.gate), customer="a\n"))
    assert (status, body["field"]) == (422, "customer_id")
    with pytest.raises(UnknownMeter):
        contract.run(asked(wrapped(hello, contract.gate, meter="token")))


def test_without_redis_a_closed_middleware_answers_503_and_an_open_one_lets_pass(run, caplog):
    gate = Gate.from_url(NO_REDIS, timeout_seconds=0.5)
    status, headers, body = run(asked(wrapped(hello, gate)))
    assert (status, headers["retry-after"]) == (503, "1")
    assert body["type"] == "https://spendgate.dev/problems/unavailable"
    status, _, body = run(asked(wrapped(hello, gate, when_unavailable="open", reserve=True)))
    assert (status, body["outcome"]) == (200, None)
    assert "tokens of acme passes unmetered" in caplog.text
    run(gate.aclose())


def test_an_empty_redis_is_not_ready_however_open(run, redis_url):
    gate = Gate.from_url(redis_url)
    status, _, body = run(asked(wrapped(hello, gate, when_unavailable="open")))
    assert (status, body["type"]) == (503, "https://spendgate.dev/problems/not-ready")
    run(gate.aclose())


async def counting(scope, receive, send):
    """Streams five parts, tells its run of 3 tokens each, and stops when the client is gone."""
    run = scope["state"]["spendgate_run"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(5):
        run.add(3)
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_with_reserve_what_the_application_told_is_committed(contract):
    async def call(app, fail_after=99):
        sent = []

        async def send(message):
            if len(sent) >= fail_after:
                raise OSError("the client is gone")
            line = (await contract.gate.snapshot("acme")).limits()[0]
            sent.append((line.used, line.reserved))

        await app({"type": "http", "method": "POST", "path": "/", "headers": [], "customer": "acme"}, None, send)
        return sent

    app = wrapped(counting, contract.gate, quantity=50, reserve=True)
    assert set(contract.run(call(app))) == {(0, 50)}
    assert left(contract) == 985
    with pytest.raises(OSError, match="the client is gone"):
        contract.run(call(app, fail_after=2))
    assert left(contract) == 985 - 6


def test_with_reserve_a_run_that_is_told_nothing_is_released(contract):
    assert contract.run(asked(wrapped(hello, contract.gate, quantity=50, reserve=True)))[0] == 200
    assert left(contract) == 1000
    assert contract.records()[-1].result.reason == "released"


@pytest.mark.parametrize("paths", [("*",), ()], ids=["decided", "not decided"])
def test_a_denial_inside_of_the_application_is_answered_like_one_before_it(contract, paths):
    @contract.gate.guard(customer=lambda call: call["scope"]["customer"], meter="tokens", quantity=101)
    async def guarded(scope, receive, send):
        pytest.fail("it does not fit")

    status, _, body = contract.run(asked(wrapped(guarded, contract.gate, paths=paths)))
    assert (status, body["reason"]) == (402, "above_burst")


def test_a_denial_in_the_middle_of_an_answer_is_raised(contract):
    async def late(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with contract.gate.reserve("acme", "tokens", 101):
            pytest.fail("it does not fit")

    with pytest.raises(Denied):
        contract.run(asked(wrapped(late, contract.gate)))


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_scopes_pass_as_they_are(kind):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    given = ({"type": kind, "path": "/v1/chat"}, object(), object())
    asyncio.run(wrapped(app, FakeGate(policy_of()))(*given))
    assert seen == [given]
    assert given[0] == {"type": kind, "path": "/v1/chat"}


@pytest.mark.parametrize(
    "terms", [{"meter": None}, {"quantities": {"runs": 1}}, {"paths": "/v1/*"}], ids=["no meter", "both", "one path"]
)
def test_wiring_that_cannot_work_is_refused(terms):
    with pytest.raises(TypeError):
        wrapped(hello, FakeGate(policy_of()), **terms)


def test_under_a_real_server_parts_arrive_while_the_stream_goes_on(contract):
    """The application sends its second part only after the client has read the first."""
    gate = Gate.from_url(contract.url, timeout_seconds=5)
    first_was_read = []

    async def streaming(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first;", "more_body": True})
        read = asyncio.Event()
        first_was_read.append((asyncio.get_running_loop(), read))
        await read.wait()
        await send({"type": "http.response.body", "body": b"second;"})

    app = GateMiddleware(
        streaming,
        gate=lambda: gate,
        customer=lambda scope: dict(scope["headers"]).get(b"x-customer", b"").decode() or None,
        meter="tokens",
        quantity=600,
    )
    app_headers = {"x-customer": "acme"}
    contract.contract(policy_of(quota(1000)), version=2)
    with (
        serve(app, closing=[gate.aclose]) as url,
        httpx.Client(base_url=url, headers=app_headers, timeout=20) as client,
    ):
        with client.stream("POST", "/v1/chat") as response:
            parts = response.iter_raw()
            assert next(parts) == b"first;"
            loop, read = first_was_read[0]
            loop.call_soon_threadsafe(read.set)
            assert next(parts) == b"second;"
        denied = client.post("/v1/chat", json={"a": 1})
        assert (denied.status_code, denied.json()["unblock"]["short"]) == (402, 200)
        assert client.post("/v1/chat", headers={"x-customer": ""}).status_code == 403
