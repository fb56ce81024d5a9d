"""The decision path as applications and gateways see it."""

from __future__ import annotations

import time


def test_the_articles_event_works_as_it_stands(api):
    api.contract()
    event = {
        "customer_id": "acme",
        "meter": "ai_agent_run",
        "quantity": 1,
        "metadata": {"model": "claude-5", "context_window": 900},
    }
    answer = api.post("/v1/decisions", event).json()
    assert answer["decision"] == "allow"
    assert answer["retry_safe"] is False
    assert answer["event_id"]
    trace = answer["decision_trace"]
    assert [line["id"] for line in trace["limits"]] == ["tokens-month", "runs-rate", "context"]
    assert trace["event"]["metadata"] == event["metadata"]
    assert answer["policy"]["plan"] == "basic"
    assert answer["policy"]["contractual_caps"] == {"tokens": 1000}


def test_a_denial_says_which_rule_the_numbers_and_what_would_help(api):
    api.contract()
    api.decide(990)
    denied = api.decide(500)
    assert denied["decision"] == "stop"
    assert denied["reason"]["code"] == "quota_exceeded"
    assert "500 tokens" in denied["reason"]["message"]
    assert "10 tokens of 1,000 tokens" in denied["reason"]["message"]
    assert denied["decision_trace"]["deciding_limit"] == "tokens-month"
    assert denied["unblock"]["short"] == 490
    assert denied["unblock"]["resets_at"].endswith("-01T00:00:00Z")


def test_gateways_get_the_outcome_as_a_status(api):
    api.contract()
    prefer = {"prefer": "status=gateway"}

    def ask(**event):
        return api.post(
            "/v1/decisions", {"customer_id": "acme", "meter": "tokens", "quantity": 1} | event, headers=prefer
        )

    assert ask().status_code == 200
    assert ask(quantity=5000).status_code == 402
    assert ask(metadata={"model": "gpt-5"}).status_code == 403
    assert ask(meter="ai_agent_run", quantity=5).status_code == 200
    throttled = ask(meter="ai_agent_run", quantity=5)
    assert throttled.status_code == 429
    assert int(throttled.headers["retry-after"]) >= 1
    assert throttled.headers["preference-applied"] == "status=gateway"
    api.contract(status="suspended")
    assert ask().status_code == 403


def test_an_idempotency_key_serves_as_event_id_and_conflicts_are_409(api):
    api.contract()
    key = {"idempotency-key": "run-7"}
    event = {"customer_id": "acme", "meter": "tokens", "quantity": 5}
    first = api.post("/v1/decisions", event, headers=key).json()
    again = api.post("/v1/decisions", event, headers=key).json()
    assert (first["event_id"], again["duplicate"], again["decision_id"]) == ("run-7", True, first["decision_id"])
    conflict = api.post("/v1/decisions", event | {"quantity": 6}, headers=key)
    assert (conflict.status_code, conflict.json()["field"]) == (409, "event_id")


def test_a_batch_is_independent_events(api):
    api.contract()
    events = [
        {"customer_id": "acme", "meter": "tokens", "quantity": 5},
        {"customer_id": "acme", "meter": "nope", "quantity": 5},
        {"customer_id": "acme", "meter": "tokens", "quantity": 10_000},
        7,
    ]
    results = api.post("/v1/decisions/batch", {"events": events}).json()["results"]
    assert [result["status"] for result in results] == [200, 422, 200, 422]
    assert [results[0]["decision"]["decision"], results[2]["decision"]["decision"]] == ["allow", "stop"]
    assert results[1]["problem"]["field"] == "meter"


def test_usage_that_happened_is_recorded_whatever_the_limits_say(api):
    api.contract()
    answer = api.post("/v1/usage", {"customer_id": "acme", "meter": "tokens", "quantity": 5000}, scope="usage").json()
    assert (answer["decision"], answer["reason"]["code"], answer["customer_state"]) == ("allow", "recorded", "stopped")


def test_a_dry_run_is_not_kept(api):
    api.contract()
    before = api.outbox_entries()
    answer = api.decide(5, dry_run=True)
    assert (answer["dry_run"], answer["decision_id"]) == (True, None)
    assert api.outbox_entries() == before


def test_an_unknown_customer_is_decided_after_one_fetch(api, run):
    started = time.monotonic()
    denied = api.decide(1, customer="nobody")
    assert denied["reason"]["code"] == "unknown_customer"
    assert time.monotonic() - started < 5
    hints = run(api.control.read_hints(dict.fromkeys(range(64), "0-0")))
    assert b"nobody" in {value for _, _, value in hints}


def test_a_bound_key_names_the_tenant(api):
    api.contract()
    api.contract("other")
    bound = api.store.keys.create("acme-app", ["decide"], 0, customer_id="acme")
    headers = {"authorization": f"Bearer {bound}"}
    own = api.http.post("/v1/decisions", json={"meter": "tokens", "quantity": 1}, headers=headers)
    assert own.json()["customer_id"] == "acme"
    foreign = api.http.post(
        "/v1/decisions", json={"customer_id": "other", "meter": "tokens", "quantity": 1}, headers=headers
    )
    assert foreign.status_code == 403


def test_a_decision_and_its_trace_are_kept(api):
    api.contract()
    answer = api.decide(7, event_id="run-1", metadata={"model": "claude-5"})
    api.relay_all()
    stored = api.get(f"/v1/decisions/{answer['decision_id']}").json()
    assert {name: stored[name] for name in answer} == answer
    assert [(each["sink"], each["state"]) for each in stored["deliveries"]] == [("usagebox.usage", "pending")]
    listed = api.get("/v1/decisions", customer_id="acme").json()["items"]
    assert [item["decision_id"] for item in listed] == [answer["decision_id"]]


def test_lists_page_to_the_end_without_gaps(api):
    api.contract()
    made = [api.decide(1)["decision_id"] for _ in range(23)]
    api.relay_all()
    seen, cursor = [], None
    while True:
        page = api.get("/v1/decisions", limit=5, **({"cursor": cursor} if cursor else {})).json()
        seen += [item["decision_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_the_end_of_a_reservation_is_found_by_its_id(api):
    api.contract()

    async def reserve_and_commit():
        async with api.gate.reserve("acme", "tokens", 100) as run:
            run.commit(40)
        return run.finished.record_id

    ended = api.run(reserve_and_commit())
    api.relay_all()
    found = api.get(f"/v1/decisions/{ended}")
    assert found.status_code == 200
    told = found.json()
    assert (told["kind"], told["decision_trace"]["mode"], told["reason"]["code"]) == ("finish", "commit", "committed")
    assert told["reservation"]["committed"] == {"tokens": 40}
