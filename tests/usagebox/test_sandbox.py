"""The client against the sandbox over real HTTP, in both dialects; and the sandbox's webhooks."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from serving import serve
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.usagebox import (
    BatchResult,
    CorrectionRef,
    NotInDialect,
    Period,
    UsageBox,
    UsageBoxRefused,
    UsageEvent,
)
from spendgate_daemon.usagebox.values import Frozen

KEY = "ubx_test"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime.now(UTC)


@pytest.fixture(params=["hosted", "usagedb"])
def box(request, tmp_path, run):
    """Its clock stands still: what is late stays late, and what is not, when an hour is full during the test."""
    now_ms = int(NOW.timestamp() * 1000)
    sandbox = create_sandbox(tmp_path / "book.sqlite", key=KEY, dialect=request.param, now_ms=lambda: now_ms)
    with serve(sandbox) as url:
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


def test_what_was_sent_is_read_back_field_by_field(box, run):
    sent = [event(1), event(2, model_id=None, source="other", meter_id="images")]
    run(box.send_usage(sent))
    span = (NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    assert run(box.events("acme", *span)) == sent
    assert run(box.events("acme", *span, meter_id="images")) == sent[1:]
    explanation = run(box.explain("acme", *span))
    assert {(line.meter_id, line.model_id, line.source, line.unit, line.quantity) for line in explanation.lines} == {
        ("tokens", "m", "spendgate/test", "token", 10),
        ("images", "", "other", "token", 10),
    }
    assert explanation.corrections == ()
    assert run(box.verify("acme", *span)).raw_total == 20


def test_corrections_are_for_usagedb_only_and_adjust_a_closed_period(box, run):
    month = NOW.strftime("%Y-%m")
    correction = msgspec.structs.replace(
        event(2, -3), kind="Correction", correction_ref=CorrectionRef("e1", "counted twice")
    )
    run(box.send_usage([event(1)]))
    assert run(box.period("acme", month)).frozen is None
    run(box.connection.send("close", "POST", f"/v1/accounts/acme/periods/{month}/close", None))
    assert run(box.send_usage([event(3)])).rejected == 1
    if box.dialect == "hosted":
        with pytest.raises(NotInDialect):
            run(box.send_usage([correction]))
        assert run(box.period("acme", month)) == Period("Closed", 10, Frozen(10, 1))
        return
    assert run(box.send_usage([correction])).accepted == 1
    period = run(box.period("acme", month))
    assert (period.state, period.quantity, period.frozen) == ("Closed", 7, Frozen(10, 1))
    assert [each["event_id"] for each in period.pending_adjustments] == ["e2"]
    span = (NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    assert run(box.explain("acme", *span)).corrections == (correction,)


def test_a_wrong_key_is_refused_where_there_are_keys(box, run):
    async def scenario():
        async with UsageBox(str(box.connection._http.base_url), "wrong") as other:
            await other.send_usage([event(1)])

    if box.dialect == "usagedb":
        run(scenario())
        return
    with pytest.raises(UsageBoxRefused) as refused:
        run(scenario())
    assert refused.value.status == 401


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
