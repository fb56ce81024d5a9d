"""The client against the sandbox over real HTTP: what the API page says, in both dialects."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from serving import serve
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.usagebox import BatchResult, UsageBox, UsageBoxRefused, UsageBoxUnavailable, UsageEvent

KEY = "ubx_test"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime.now(UTC)


@pytest.fixture(params=["hosted", "usagedb"])
def box(request, tmp_path, run, monkeypatch):
    """Its clock stands still: what is late stays late, and what is not, when an hour is full during the test."""
    monkeypatch.setattr("spendgate_daemon.sandbox.app.now_ms", lambda: int(NOW.timestamp() * 1000))
    with serve(create_sandbox(tmp_path / "book.sqlite", key=KEY, dialect=request.param)) as url:
        client = UsageBox(url, KEY, dialect=request.param)
        yield client
        run(client.aclose())


def event(number, quantity=10, at=NOW, source="spendgate/test", **fields):
    given = {"account_id": "acme", "meter_id": "tokens", "unit": "token", "model_id": "m"} | fields
    return UsageEvent(
        event_id=f"e{number}", quantity=quantity, timestamp_ms=int(at.timestamp() * 1000), source=source, **given
    )


def test_a_batch_is_counted_by_what_became_of_each_event(box, run):
    assert run(box.send_usage([event(1), event(2)])) == BatchResult(2, 0, 0, 0)
    assert run(box.send_usage([event(1), event(2, 11), event(3)])) == BatchResult(1, 1, 1, 0)
    assert run(box.send_usage([event(4, account_id=""), event(5)])) == BatchResult(1, 0, 0, 1)


def test_totals_tell_our_own_usage_from_others(box, run):
    run(box.send_usage([event(1, 10), event(2, 5, source="other"), event(3, 7, account_id="else")]))
    lines = run(box.totals("acme", NOW - timedelta(hours=1), NOW + timedelta(hours=1), ["source"], source="raw"))
    assert {line.keys["source"]: line.quantity for line in lines} == {"spendgate/test": 10, "other": 5}


def test_rollups_drop_the_first_partial_hour_and_miss_late_events(box, run):
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    run(box.send_usage([event(1, 10), event(2, 3, at=hour - timedelta(hours=5))]))
    end = hour + timedelta(hours=1)
    whole = run(box.totals("acme", hour - timedelta(days=1), end, ["meter_id"]))
    assert [line.quantity for line in whole] == [10], "the late event is missing until a rebuild"
    cut = run(box.totals("acme", hour + timedelta(microseconds=1000), end, ["meter_id"]))
    assert cut == [], "an edge inside the hour drops the hour"


def test_a_closed_period_refuses_usage(box, run, tmp_path):
    month = NOW.strftime("%Y-%m")
    run(box.send_usage([event(1)]))
    with httpx.Client(base_url=str(box.connection._http.base_url), headers={"authorization": f"Bearer {KEY}"}) as http:
        closed = http.post(f"/v1/accounts/acme/periods/{month}/close").json()
        assert closed["frozen"] == {"quantity": "10", "event_count": 1}
        assert run(box.send_usage([event(2)])).rejected == 1
        http.post(f"/v1/accounts/acme/periods/{month}/reopen")
        assert run(box.send_usage([event(2)])).accepted == 1
        assert http.get("/v1/accounts/acme/usage?from=x&to=y").status_code == 500


def test_policies_come_by_cursor_and_versions_grow(box, run):
    async def scenario():
        async with httpx.AsyncClient(
            base_url=str(box.connection._http.base_url), headers={"x-api-key": KEY, "authorization": f"Bearer {KEY}"}
        ) as http:
            path = "/sandbox/v1/customers/acme"
            assert (await http.put(path, json={"name": "Acme"})).status_code == 404
            await http.put(path, json={"name": "Acme", "plan": "starter", "caps": {"tokens": 5}})
            first, cursor = await box.policies(None)
            await http.put(path, json={"plan": "starter"})
            assert (await box.policies(cursor))[0] == [], "nothing changed"
            await http.post(f"{path}/credits", json={"amount": 50})
            second, _ = await box.policies(cursor)
            return first, second

    first, second = run(scenario())
    assert [(p.customer_id, p.version, p.caps, p.credits_granted_total) for p in first] == [
        ("acme", 1, {"tokens": 5}, None)
    ]
    assert [(p.version, p.credits_granted_total) for p in second] == [(2, 50)]


def test_a_flag_is_raised_once_per_key(box, run):
    async def scenario():
        for key in ("k1", "k1"):
            await box.raise_flag(
                "acme", "hard-stop", reason="r", decision_id="d", occurred_at_us=1, idempotency_key=key
            )
        await box.clear_flag("acme", "hard-stop", idempotency_key="k2")
        async with httpx.AsyncClient(
            base_url=str(box.connection._http.base_url), headers={"authorization": f"Bearer {KEY}"}
        ) as http:
            return (await http.get("/sandbox/v1/flag-events")).json()["items"]

    assert [item["kind"] for item in run(scenario())] == ["raised", "cleared"]


def test_a_wrong_key_is_refused_and_no_server_is_unavailable(box, run):
    async def scenario():
        async with UsageBox(str(box.connection._http.base_url), "wrong", timeout_seconds=2) as other:
            with pytest.raises(UsageBoxRefused):
                await other.send_usage([event(1)])
        async with UsageBox("http://127.0.0.1:1", KEY, timeout_seconds=1) as nobody:
            with pytest.raises(UsageBoxUnavailable):
                await nobody.send_usage([event(1)])

    run(scenario())


def test_what_is_committed_survives_a_restart(tmp_path, run):
    for expected in (BatchResult(1, 0, 0, 0), BatchResult(0, 1, 0, 0)):
        with serve(create_sandbox(tmp_path / "book.sqlite", key=KEY)) as url:

            async def send(url=url):
                async with UsageBox(url, KEY) as box:
                    return await box.send_usage([event(1)])

            assert run(send()) == expected


def test_webhooks_are_signed_and_repeated_until_taken(tmp_path):
    taken = []
    done = threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append(Webhook(SECRET).verify(body, dict(self.headers.items())))
            self.send_response(500 if len(taken) == 1 else 204)
            self.end_headers()
            if len(taken) == 2:
                done.set()

        def log_message(self, *args):
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}/"
    with serve(create_sandbox(tmp_path / "b.sqlite", key=None, webhook_url=url, webhook_secret=SECRET)) as sandbox:
        httpx.put(f"{sandbox}/sandbox/v1/customers/acme", json={"plan": "starter"})
        assert done.wait(20)
    receiver.shutdown()
    receiver.server_close()
    assert taken[0] == taken[1]
    assert taken[0]["data"] == {"customer_id": "acme", "version": 1}
