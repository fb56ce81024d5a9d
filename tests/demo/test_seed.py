"""Seeding a real sandbox over HTTP: once, completely, and again without a change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from serving import serve
from spendgate_daemon.demo import DEMO_CUSTOMERS, DemoError, seed_demo
from spendgate_daemon.demo.history import history_events
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.usagebox import UsageBox

KEY = "ubx_test"
NOW = datetime.now(UTC)


@pytest.fixture
def sandbox(tmp_path):
    with serve(create_sandbox(tmp_path / "book.sqlite", key=KEY)) as url:
        yield url


def policies(url):
    answer = httpx.get(f"{url}/api/v1/policies", headers={"x-api-key": KEY})
    return {state["customer_id"]: state for state in answer.json()["policies"]}


async def totals(url, account):
    async with UsageBox(url, KEY) as usagebox:
        hour = NOW.replace(minute=0, second=0, microsecond=0)
        lines = await usagebox.totals(account, hour - timedelta(days=31), hour, ["meter_id", "source"])
    return {(line.keys["meter_id"], line.keys["source"]): line.quantity for line in lines}


def test_the_demo_is_there_after_one_start_and_unchanged_by_a_second(sandbox, run):
    told = []
    report = run(seed_demo(sandbox, KEY, now=NOW, progress=lambda *step: told.append(step)))
    assert (report.created, report.customers) == (True, 24)
    assert told[-1] == ("customers", 24, 24)
    assert ("history", report.events, report.events) in told
    first = policies(sandbox)
    assert {customer.customer_id: customer.name for customer in DEMO_CUSTOMERS} == {
        customer_id: state["name"] for customer_id, state in first.items()
    }
    expected: dict[tuple[str, str], int] = {}
    for event in history_events(NOW):
        if event.account_id == "tessera-legal":
            expected[event.meter_id, event.source] = expected.get((event.meter_id, event.source), 0) + event.quantity
    assert run(totals(sandbox, "tessera-legal")) == expected, "rollups have the late history, too"

    again = run(seed_demo(sandbox, KEY, now=NOW + timedelta(days=3)))
    assert (again.created, again.history_end) == (False, report.history_end)
    assert policies(sandbox) == first


def test_an_interrupted_start_goes_on_where_it_was(sandbox, run):
    class PersonQuitError(Exception):
        pass

    def interrupt(step, done, _total):
        if step == "customers" and done == 5:
            raise PersonQuitError

    with pytest.raises(PersonQuitError):
        run(seed_demo(sandbox, KEY, now=NOW, progress=interrupt))
    report = run(seed_demo(sandbox, KEY, now=NOW + timedelta(hours=2)))
    assert report.created
    assert len(policies(sandbox)) == 24
    usage = run(totals(sandbox, "tessera-legal"))
    own = [e for e in history_events(NOW) if e.account_id == "tessera-legal" and e.meter_id == "ai_agent_run"]
    assert usage["ai_agent_run", "demo-history"] == sum(event.quantity for event in own), "no hour twice, none added"


def test_a_wrong_key_or_nobody_there_is_told(sandbox, run):
    with pytest.raises(DemoError, match="401"):
        run(seed_demo(sandbox, "wrong", now=NOW))
    with pytest.raises(DemoError, match="did not take the demo"):
        run(seed_demo("http://127.0.0.1:1", KEY, now=NOW))
