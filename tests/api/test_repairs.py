"""Repairs as an operator sees them: what was wrong, and who was denied because of it."""

from __future__ import annotations

import msgspec
from jsonschema import Draft202012Validator

from spendgate.keys import counters_key
from spendgate.limits import PeriodCounter
from spendgate_daemon.api.openapi import openapi_document
from spendgate_daemon.relays.reserved import ReservedCheck

FIELD = "quota:tokens-month"


def described(answer, name):
    document = openapi_document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    errors = [f"{error.json_path} {error.message}" for error in Draft202012Validator(schema).iter_errors(answer)]
    assert errors == []
    return answer


def break_and_repair(api, run) -> dict:
    """A customer whose counter holds 800 for nobody, and who is denied because of it; the denial."""
    event = {"customer_id": "acme", "meter": "tokens", "quantity": 100, "event_id": "run-1"}
    assert api.post("/v1/reservations", event).json()["decision"] == "allow"
    key = counters_key("acme")
    counter = PeriodCounter.decode(run(api.control.redis.hget(key, FIELD)))
    run(api.control.redis.hset(key, FIELD, msgspec.structs.replace(counter, reserved=900).encode()))
    denied = api.decide(200, event_id="denied")
    assert denied["decision"] == "stop"
    assert run(ReservedCheck(api.control).run_once()) == 1
    api.relay_all()
    return denied


def test_a_repair_is_listed_with_what_was_wrong_and_who_was_denied(api, run):
    api.contract()
    denied = break_and_repair(api, run)
    listed = described(api.get("/v1/repairs").json(), "Repairs")
    (row,) = listed["items"]
    assert (row["customer_id"], row["customer_name"], row["calendar"]) == ("acme", "Acme", False)
    (counter,) = row["counters"]
    assert (counter["limit_id"], counter["before"], counter["after"]) == ("tokens-month", 900, 100)
    assert counter["unit"] == "token"
    repair = described(api.get(f"/v1/repairs/{row['decision_id']}").json(), "Repair")
    assert [each["decision_id"] for each in repair["wrongly_denied"]] == [denied["decision_id"]]
    assert repair["wrongly_denied"][0]["event_id"] == "denied"
    assert (repair["denials_looked_at"], repair["denials_only_counted"]) == (1, 0)
    assert repair["reservations_without_end"] == []
    assert api.decide(200, event_id="denied")["decision"] == "allow"


def test_a_repair_is_a_guardrail_event_and_no_decision(api, run):
    api.contract()
    break_and_repair(api, run)
    (row,) = api.get("/v1/repairs").json()["items"]
    (event,) = described(api.get("/v1/guardrail-events", kind="repair").json(), "GuardrailEvents")["items"]
    assert (event["decision_id"], event["limit_id"]) == (row["decision_id"], "tokens-month")
    assert "800 tokens" in event["message"]
    assert row["decision_id"] not in {item["decision_id"] for item in api.get("/v1/decisions").json()["items"]}
    told = described(api.get(f"/v1/decisions/{row['decision_id']}").json(), "StoredDecision")
    assert (told["kind"], told["reason"], told["verified"]) == ("repair", "repaired", None)


def test_repairs_are_listed_by_customer_and_page(api, run):
    api.contract()
    break_and_repair(api, run)
    assert api.get("/v1/repairs", customer_id="other").json() == {"items": [], "next_cursor": None}
    assert len(api.get("/v1/repairs", customer_id="acme", limit=1).json()["items"]) == 1


def test_what_is_no_repair_is_not_found(api):
    api.contract()
    decided = api.decide(1)
    api.relay_all()
    for decision_id in (decided["decision_id"], "d000-1-1", "nonsense"):
        assert api.get(f"/v1/repairs/{decision_id}").status_code == 404
    assert api.get("/v1/repairs", colour="red").status_code == 422
    assert api.get("/v1/repairs", scope="decide").status_code == 403
