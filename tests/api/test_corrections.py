"""Corrections over HTTP: what they change at once, what they leave, and who may make them."""

from __future__ import annotations

import threading

import pytest
from jsonschema import Draft202012Validator

from spendgate_daemon.api.openapi import openapi_document
from spendgate_daemon.cli.correct import command

REASON = "the run was counted twice"


def described(answer, name):
    document = openapi_document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    assert [f"{error.json_path} {error.message}" for error in Draft202012Validator(schema).iter_errors(answer)] == []
    return answer


@pytest.fixture
def acme(api):
    api.contract()
    return api


def correct(api, decision_id, quantity, *, scope="admin", key=None, **fields):
    headers = {"idempotency-key": key} if key is not None else {}
    body = {"quantity": quantity, "reason": REASON} | fields
    return api.post(f"/v1/decisions/{decision_id}/corrections", body, scope, headers=headers)


def used(api, quantity=1000, **fields):
    decision = api.decide(quantity, **fields)
    assert decision["decision"] == "allow"
    api.relay_all()
    return decision["decision_id"]


def total(api, meter="tokens"):
    return api.store.usage.total("acme", meter, 0, 2**62)


def test_a_voided_event_reopens_the_customer_and_the_original_stays(acme):
    decision_id = used(acme)
    assert acme.get("/v1/customers/acme").json()["state"] == "stopped"
    answer = correct(acme, decision_id, 0)
    assert answer.status_code == 201
    made = described(answer.json(), "MadeCorrection")
    assert (made["before"], made["after"], made["created_by"]) == (1000, 0, "admin@test")
    assert (made["previous_state"], made["customer_state"]) == ("stopped", "ok")
    (limit,) = made["limits"]
    assert (limit["limit_id"], limit["before"], limit["after"], limit["counted"]) == ("tokens-month", 1000, 0, True)
    assert acme.decide(1000)["decision"] == "allow"
    acme.relay_all()
    assert total(acme) == 1000
    decision = described(acme.get(f"/v1/decisions/{decision_id}").json(), "StoredDecision")
    assert decision["decision_trace"]["event"]["quantities"] == {"tokens": 1000}
    (told,) = decision["corrections"]
    assert told["message"] == f"corrected from 1,000 to 0 tokens by admin@test: {REASON}"
    own = described(acme.get(f"/v1/decisions/{made['decision_id']}").json(), "StoredDecision")
    assert (own["kind"], own["reason"]["code"]) == ("finish", "corrected")
    assert own["corrections"] == [told]
    (delivery,) = own["deliveries"]
    assert (delivery["sink"], delivery["item_id"]) == ("usagebox.usage", made["decision_id"])


def test_a_correction_is_a_guardrail_event_and_so_is_what_follows(acme):
    made = correct(acme, used(acme), 0).json()
    acme.relay_all()
    events = described(acme.get("/v1/guardrail-events").json(), "GuardrailEvents")["items"]
    assert [event["kind"] for event in events[:2]] == ["resumed", "corrected"]
    assert events[1]["decision_id"] == made["decision_id"]
    assert events[1]["message"].startswith(
        f"tokens of {made['corrects']} corrected from 1,000 to 0 tokens by admin@test"
    )
    assert [event["kind"] for event in events].count("threshold_crossed") == 1, "it had fired, and stays so"


def test_a_correction_upwards_is_never_denied(acme):
    decision_id = used(acme, 600)
    made = correct(acme, decision_id, 1500).json()
    assert (made["limits"][0]["before"], made["limits"][0]["after"]) == (600, 1500)
    assert made["customer_state"] == "stopped"
    acme.relay_all()
    assert total(acme) == 1500
    assert [point.used for point in acme.store.usage.series("acme", "tokens", 0, 2**40, 86_400)] == [1500]
    kinds = [event["kind"] for event in acme.get("/v1/guardrail-events").json()["items"]]
    assert kinds == ["stopped", "threshold_crossed", "corrected"]


def test_a_second_correction_starts_from_what_the_first_left(acme):
    decision_id = used(acme)
    correct(acme, decision_id, 0)
    acme.relay_all()
    second = correct(acme, decision_id, 700).json()
    assert (second["before"], second["after"]) == (0, 700)
    acme.relay_all()
    assert total(acme) == 700
    listed = described(acme.get(f"/v1/decisions/{decision_id}/corrections").json(), "Corrections")["items"]
    assert [(row["before"], row["after"]) for row in listed] == [(1000, 0), (0, 700)]
    assert listed[1]["limits"] == second["limits"]


def test_corrections_that_race_are_made_one_after_the_other(acme):
    decision_id = used(acme)
    answers = []

    def one(quantity):
        answers.append(correct(acme, decision_id, quantity))

    threads = [threading.Thread(target=one, args=(quantity,)) for quantity in (100, 200, 300, 400)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        acme.relay_all()
    assert [answer.status_code for answer in answers] == [201] * 4
    acme.relay_all()
    made = [
        (row["before"], row["after"]) for row in acme.get(f"/v1/decisions/{decision_id}/corrections").json()["items"]
    ]
    assert [before for before, _ in made] == [1000, *(after for _, after in made[:-1])]
    assert total(acme) == made[-1][1]
    limit = next(each for each in acme.get("/v1/customers/acme").json()["limits"] if each["id"] == "tokens-month")
    assert limit["used"] == made[-1][1]


def test_the_same_key_makes_one_correction_stored_or_not(acme):
    decision_id = used(acme)
    first = correct(acme, decision_id, 0, key="k-1")
    again = correct(acme, decision_id, 0, key="k-1")
    acme.relay_all()
    later = correct(acme, decision_id, 0, key="k-1")
    assert (first.status_code, again.status_code, later.status_code) == (201, 200, 200)
    assert {answer.json()["decision_id"] for answer in (first, again, later)} == {first.json()["decision_id"]}
    assert again.json()["limits"] == later.json()["limits"] == first.json()["limits"]
    other = correct(acme, decision_id, 5, key="k-1")
    assert (other.status_code, other.json()["field"]) == (409, "Idempotency-Key")
    assert total(acme) == 0


def test_one_of_several_meters_is_named(acme):
    event = {"customer_id": "acme", "quantities": {"tokens": 300, "ai_agent_run": 2}}
    decision_id = acme.post("/v1/decisions", event).json()["decision_id"]
    acme.relay_all()
    missing = correct(acme, decision_id, 0)
    assert (missing.status_code, missing.json()["field"]) == (422, "meter")
    assert "ai_agent_run, tokens" in missing.json()["detail"]
    assert correct(acme, decision_id, 0, meter="gpu.seconds").json()["field"] == "meter"
    made = correct(acme, decision_id, 1, meter="ai_agent_run").json()
    assert (made["before"], made["after"], made["limits"]) == (2, 1, [])
    acme.relay_all()
    assert (total(acme), total(acme, "ai_agent_run")) == (300, 1)
    row = acme.store.usage.after(0, 10)[-1]
    assert (row.quantity, row.corrects, row.correction_reason) == (-1, f"{decision_id}:ai_agent_run", REASON)


def test_what_a_reservation_was_committed_with_is_corrected_at_its_end(acme):
    event = {"customer_id": "acme", "meter": "tokens", "quantity": 500}
    reserved = acme.post("/v1/reservations", event).json()
    acme.relay_all()
    still_open = correct(acme, reserved["decision_id"], 0)
    assert (still_open.status_code, still_open.json()["field"]) == (422, "decision_id")
    assert "still open" in still_open.json()["detail"]
    ended = acme.post(f"/v1/reservations/{reserved['reservation_id']}/commit", {"quantity": 400}).json()
    acme.relay_all()
    assert ended["decision_id"] in correct(acme, reserved["decision_id"], 0).json()["detail"]
    made = correct(acme, ended["decision_id"], 100).json()
    assert (made["before"], made["after"]) == (400, 100)
    acme.relay_all()
    assert total(acme) == 100


def test_what_used_nothing_can_not_be_corrected(acme):
    acme.contract(caps={"tokens": 10})
    denied = acme.decide(11)["decision_id"]
    decision_id = used(acme, 5)
    made = correct(acme, decision_id, 4).json()["decision_id"]
    acme.relay_all()
    for wrong, why in ((denied, "denied"), (made, decision_id)):
        answer = correct(acme, wrong, 0)
        assert (answer.status_code, answer.json()["field"]) == (422, "decision_id")
        assert why in answer.json()["detail"]
    same = correct(acme, decision_id, 4)
    assert (same.status_code, same.json()["field"]) == (422, "quantity")
    assert "4 tokens" in same.json()["detail"]


def test_a_wallet_gets_its_credits_back(acme):
    acme.contract("acme", "prepaid", credits_granted_total=10, caps={})
    decision_id = used(acme, 10)
    assert acme.decide(1)["decision"] == "stop"
    made = correct(acme, decision_id, 3).json()
    assert [(row["limit_id"], row["before"], row["after"]) for row in made["limits"]] == [
        ("wallet", 10_000_000, 3_000_000)
    ]
    assert acme.decide(7)["decision"] == "allow"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "quantity"),
        ({"quantity": -1}, "quantity"),
        ({"quantity": 1.5}, "quantity"),
        ({"quantity": True}, "quantity"),
        ({"quantity": "0"}, "quantity"),
        ({"quantity": 10**12 + 1}, "quantity"),
        ({"quantity": 0, "reason": "short"}, "reason"),
        ({"quantity": 0, "reason": None}, "reason"),
        ({"quantity": 0, "reason": "x" * 1001}, "reason"),
        ({"quantity": 0, "reason": "with\u0000 a NUL in it"}, "reason"),
        ({"quantity": 0, "meter": None}, "meter"),
        ({"quantity": 0, "meter": "no such meter"}, "meter"),
        ({"quantity": 0, "meter": ["tokens"]}, "meter"),
        ({"quantity": 0, "created_by": "me"}, "created_by"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(acme, body, field):
    decision_id = used(acme, 5)
    answer = acme.post(f"/v1/decisions/{decision_id}/corrections", {"reason": REASON} | body, "admin")
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert acme.relay_all() == 0


def test_only_an_administrator_may_and_only_what_there_is(acme):
    decision_id = used(acme, 5)
    for scope in ("decide", "usage", "read", "override"):
        assert correct(acme, decision_id, 0, scope=scope).status_code == 403
    for unknown in ("d000-1-1", "nonsense"):
        assert correct(acme, unknown, 0).status_code == 404
        assert acme.get(f"/v1/decisions/{unknown}/corrections").status_code == 404
    assert correct(acme, decision_id, 0, key="x" * 300).json()["field"] == "Idempotency-Key"


@pytest.fixture
def command_line(acme, monkeypatch, tmp_path):
    monkeypatch.setenv("SPENDGATE_API_URL", acme.url)
    monkeypatch.setenv("SPENDGATE_ADMIN_KEY", acme.keys["admin"])
    monkeypatch.setenv("SPENDGATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def test_the_command_prints_what_changed(acme, command_line, capsys):
    decision_id = used(acme)
    command(decision_id, quantity=0, reason=REASON)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"tokens of {decision_id} corrected from 1,000 to 0 tokens by admin@test: {REASON}"
    assert printed[1:3] == ["limit     tokens-month: used 1,000 tokens → 0 tokens", "customer  stopped → ok"]


def test_the_command_says_why_nothing_was_done(acme, command_line, capsys):
    decision_id = used(acme, 5)
    with pytest.raises(SystemExit):
        command(decision_id, quantity=5, reason=REASON)
    assert "quantity must be another than what counts already, 5 tokens" in capsys.readouterr().err
