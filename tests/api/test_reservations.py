"""Reservations over HTTP: what an application in any language sees of a run that is reserved first and counted later."""

from __future__ import annotations

import base64
import json
from datetime import datetime

import msgspec
import pytest
from jsonschema import Draft202012Validator

from spendgate.keys import SIGNING_KEY, partition_of, tag_of
from spendgate.state import Standing
from spendgate.token import read_token
from spendgate_daemon.api.openapi import openapi_document
from spendgate_daemon.relays.sweep import Sweep
from spendgate_daemon.relays.verifier import Verifier

MONTH = "tokens-month"


def reserve(api, quantity=100, **fields):
    event = {"customer_id": "acme", "meter": "tokens", "quantity": quantity} | fields
    headers = fields.pop("headers", {})
    event.pop("headers", None)
    return api.post("/v1/reservations", event, headers=headers)


def reserved(api, quantity=100, **fields) -> dict:
    response = reserve(api, quantity, **fields)
    assert response.status_code == 200, response.text
    assert response.json()["decision"] == "allow"
    return response.json()


def finish(api, reservation_id, action, body=None, **extra):
    return api.post(f"/v1/reservations/{reservation_id}/{action}", body, **extra)


def month(api, customer="acme") -> tuple[int, int]:
    """Used and reserved now."""
    line = next(line for line in api.get(f"/v1/customers/{customer}").json()["limits"] if line["id"] == MONTH)
    return line["used"], line["reserved"]


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def is_described(answer, name) -> None:
    document = openapi_document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    errors = [f"{error.json_path} {error.message}" for error in Draft202012Validator(schema).iter_errors(answer)]
    assert errors == []


def is_problem(response, status, field=None) -> None:
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert problem.get("field") == field, problem
    assert problem["detail"]


def test_a_run_is_reserved_and_then_committed_with_what_it_used(api):
    api.contract()
    held = reserved(api, 100, lifetime_seconds=60, event_id="run-1", metadata={"model": "claude-5"})
    is_described(held, "ReservationDecision")
    assert held["reservation_id"].startswith("r_")
    assert seconds_between(held["effective_at"], held["deadline"]) == 60
    assert held["reservation"]["status"] == "open"
    assert month(api) == (0, 100)
    answer = finish(api, held["reservation_id"], "commit", {"quantity": 30})
    assert answer.status_code == 200
    ended = answer.json()
    is_described(ended, "FinishedReservation")
    assert (ended["status"], ended["committed"], ended["reserved"]) == ("committed", {"tokens": 30}, {"tokens": 100})
    assert (ended["customer_id"], ended["event_id"], ended["duplicate"]) == ("acme", "run-1", False)
    assert month(api) == (30, 0)


def test_the_plans_lifetime_serves_where_none_is_asked_for(api):
    api.contract()
    held = reserved(api)
    assert seconds_between(held["effective_at"], held["deadline"]) == 300


def test_several_meters_are_committed_by_name(api):
    api.contract()
    held = api.post(
        "/v1/reservations", {"customer_id": "acme", "quantities": {"tokens": 100, "ai_agent_run": 1}}
    ).json()
    short = finish(api, held["reservation_id"], "commit", {"quantity": 5})
    is_problem(short, 422, "quantities")
    ended = finish(api, held["reservation_id"], "commit", {"quantities": {"tokens": 7, "ai_agent_run": 1}}).json()
    assert ended["committed"] == {"ai_agent_run": 1, "tokens": 7}


def test_a_release_frees_all_of_it(api):
    api.contract()
    held = reserved(api)
    ended = finish(api, held["reservation_id"], "release").json()
    assert (ended["status"], ended["committed"]) == ("released", {})
    assert month(api) == (0, 0)
    again = finish(api, held["reservation_id"], "release", {}).json()
    assert (again["duplicate"], again["decision_id"]) == (True, ended["decision_id"])


def test_an_extension_moves_the_deadline_and_never_backwards(api):
    api.contract()
    held = reserved(api, lifetime_seconds=60)
    later = finish(api, held["reservation_id"], "extend", {"seconds": 600}).json()
    is_described(later, "FinishedReservation")
    assert later["status"] == "open"
    assert seconds_between(held["effective_at"], later["deadline"]) >= 600
    same = finish(api, held["reservation_id"], "extend", {"seconds": 1}).json()
    assert same["deadline"] == later["deadline"]


def test_reserving_again_with_the_same_id_or_key_is_one_reservation(api):
    api.contract()
    first = reserved(api, event_id="run-1")
    again = reserved(api, event_id="run-1")
    assert (again["duplicate"], again["reservation_id"], again["deadline"]) == (
        True,
        first["reservation_id"],
        first["deadline"],
    )
    keyed = [reserved(api, headers={"idempotency-key": "run-2"}) for _ in range(2)]
    assert keyed[0]["reservation_id"] == keyed[1]["reservation_id"]
    assert month(api) == (0, 200)
    other = reserve(api, 101, event_id="run-1")
    is_problem(other, 409, "event_id")
    decided = api.post(
        "/v1/decisions", {"customer_id": "acme", "meter": "tokens", "quantity": 100, "event_id": "run-1"}
    )
    is_problem(decided, 409, "event_id")


def test_the_same_commit_again_is_told_the_same(api):
    api.contract()
    held = reserved(api)
    first = finish(api, held["reservation_id"], "commit", {"quantity": 30}).json()
    again = finish(api, held["reservation_id"], "commit", {"quantity": 30}).json()
    assert again == first | {"duplicate": True}
    assert month(api) == (30, 0)


def test_what_does_not_fit_is_not_reserved_and_gateways_see_it_in_the_status(api):
    api.contract()
    reserved(api, 990)
    denied = reserve(api, 100)
    assert denied.status_code == 200
    assert denied.json()["decision"] == "stop"
    assert (denied.json()["reservation_id"], denied.json()["deadline"]) == (None, None)
    is_described(denied.json(), "ReservationDecision")
    gateway = reserve(api, 100, headers={"prefer": "status=gateway"})
    assert (gateway.status_code, gateway.headers["preference-applied"]) == (402, "status=gateway")


def test_a_dry_run_reserves_nothing(api):
    api.contract()
    answer = reserved(api, dry_run=True)
    assert (answer["dry_run"], answer["reservation_id"], answer["deadline"]) == (True, None, None)
    assert month(api) == (0, 0)


def test_a_customer_that_comes_while_it_is_asked_for_gets_a_reservation(api, run, monkeypatch):
    """The first event of a customer waits a moment for the mirror; it must still be a reservation then."""
    gate = api.services.gate
    asked = gate.snapshot

    async def arriving(customer_id):
        await api.services.control.put_state(*state)
        return await asked(customer_id)

    api.contract("other")
    other = run(api.gate.snapshot("other"))
    state = ("acme", other.state, other.policy)
    monkeypatch.setattr(gate, "snapshot", arriving)
    held = reserved(api, 100, lifetime_seconds=77)
    assert held["reservation_id"]
    assert seconds_between(held["effective_at"], held["deadline"]) == 77


# Ends that are refused ---------------------------------------------------------------------------------------------------


def unknown_ids(api) -> dict[str, str]:
    good = reserved(api)["reservation_id"]
    payload = bytearray(base64.urlsafe_b64decode(good[2:] + "=" * (-len(good[2:]) % 4)))
    payload[-1] ^= 1
    return {
        "nonsense": "nonsense",
        "empty token": "r_",
        "no base64": "r_!!!",
        "not ASCII": "r_é",
        "tampered": "r_" + base64.urlsafe_b64encode(bytes(payload)).decode().rstrip("="),
        "shortened": good[:-4],
        "without its prefix": good[2:],
        "signed by another": read_token(good, signing_key(api)).sign(b"another installation"),
        "very long": "r_" + "A" * 20_000,
    }


def signing_key(api) -> bytes:
    return api.run(api.control.redis.get(SIGNING_KEY))


@pytest.mark.parametrize("action", ["commit", "release", "extend"])
def test_an_unknown_or_tampered_reservation_is_404_and_writes_nothing(api, action):
    api.contract()
    ids = unknown_ids(api)
    before = api.outbox_entries()
    body = {"commit": {"quantity": 1}, "release": {}, "extend": {"seconds": 5}}[action]
    details = set()
    for name, reservation_id in ids.items():
        response = finish(api, reservation_id, action, body)
        assert response.status_code == 404, (name, response.text)
        is_problem(response, 404)
        details.add(response.content)
    assert len(details) == 1, "nobody learns what was wrong with an id"
    assert api.outbox_entries() == before


@pytest.mark.parametrize("action", ["commit", "release", "extend"])
def test_a_bound_key_gets_the_same_answer_for_a_foreign_reservation_as_for_none(api, action):
    api.contract()
    api.contract("other")
    bound = {"authorization": f"Bearer {api.store.keys.create('acme-app', ['decide'], 0, customer_id='acme')}"}
    foreign = reserved(api, customer_id="other")["reservation_id"]
    body = {"commit": {"quantity": 1}, "release": {}, "extend": {"seconds": 5}}[action]
    refused = finish(api, foreign, action, body, headers=bound)
    assert refused.content == finish(api, "r_nonsense", action, body, headers=bound).content
    is_problem(refused, 404)
    assert month(api, "other") == (0, 100)
    own = api.http.post("/v1/reservations", json={"meter": "tokens", "quantity": 5}, headers=bound).json()
    assert own["customer_id"] == "acme"
    assert finish(api, own["reservation_id"], action, body, headers=bound).status_code == 200
    named = api.http.post(
        "/v1/reservations", json={"customer_id": "other", "meter": "tokens", "quantity": 5}, headers=bound
    )
    is_problem(named, 403)


ENDS = {"commit": {"quantity": 30}, "release": {}}


@pytest.mark.parametrize(
    ("ended_by", "then", "body"),
    [
        ("commit", "commit", {"quantity": 31}),
        ("commit", "release", {}),
        ("commit", "extend", {"seconds": 5}),
        ("release", "commit", {"quantity": 30}),
        ("release", "extend", {"seconds": 5}),
    ],
)
def test_a_finished_reservation_is_409_and_says_how_it_ended(api, ended_by, then, body):
    api.contract()
    held = reserved(api)
    finish(api, held["reservation_id"], ended_by, ENDS[ended_by])
    before = api.outbox_entries()
    refused = finish(api, held["reservation_id"], then, body)
    is_problem(refused, 409)
    ended = {"commit": "committed", "release": "released"}[ended_by]
    assert refused.json()["ended"] == ended
    assert ended in refused.json()["detail"]
    assert api.outbox_entries() == before


def test_a_reservation_that_nobody_ended_expired(api, run):
    api.contract()
    held = reserved(api)
    expire(api, run)
    refused = finish(api, held["reservation_id"], "commit", {"quantity": 1})
    is_problem(refused, 409)
    assert refused.json()["ended"] == "expired"
    assert month(api) == (0, 0)


def expire(api, run, customer="acme") -> None:
    """As when the deadline and its grace have passed: ends, and the calendar of the sweep, are put back in time."""
    tag = tag_of(partition_of(customer))
    for event_id in run(api.control.redis.zrange(f"{tag}ends:{customer}", 0, -1)):
        run(api.control.redis.zadd(f"{tag}ends:{customer}", {event_id: 1}))
    key = f"{tag}counters:{customer}"
    standing = Standing.decode(run(api.control.redis.hget(key, "*")))
    run(api.control.redis.hset(key, "*", msgspec.structs.replace(standing, reservations_end_us=1).encode()))
    run(api.control.redis.zadd(f"{tag}changes", {customer: 1}))
    run(Sweep(api.control).run_once())


@pytest.mark.parametrize(
    ("action", "body", "field"),
    [
        ("commit", {"quantity": -1}, "quantity"),
        ("commit", {"quantity": 1.5}, "quantity"),
        ("commit", {"quantity": True}, "quantity"),
        ("commit", {"quantity": "30"}, "quantity"),
        ("commit", {"quantity": None}, "quantity"),
        ("commit", {"quantity": 10**12 + 1}, "quantity"),
        ("commit", {}, "quantity"),
        ("commit", [], "body"),
        ("commit", {"quantity": 1, "quantities": {"tokens": 1}}, "quantities"),
        ("commit", {"quantities": None}, "quantities"),
        ("commit", {"quantities": [1]}, "quantities"),
        ("commit", {"quantities": {"tokens": -1}}, "quantities.tokens"),
        ("commit", {"quantities": {"tokens": 10**13}}, "quantities.tokens"),
        ("commit", {"quantities": {"nope": 1}}, "quantities.nope"),
        ("commit", {"quantities": {"tokens": 1, "nope": 1}}, "quantities.nope"),
        ("commit", {"quantities": {"": 1}}, "quantities"),
        ("commit", {"quantities": {f"m{n}": 1 for n in range(17)}}, "quantities"),
        ("commit", {"quantity": 1, "customer_id": "acme"}, "customer_id"),
        ("release", {"quantity": 1}, "quantity"),
        ("release", [], "body"),
        ("extend", {}, "seconds"),
        ("extend", {"seconds": 0}, "seconds"),
        ("extend", {"seconds": -5}, "seconds"),
        ("extend", {"seconds": 1.5}, "seconds"),
        ("extend", {"seconds": "60"}, "seconds"),
        ("extend", {"seconds": True}, "seconds"),
        ("extend", {"seconds": None}, "seconds"),
        ("extend", {"seconds": 3601}, "seconds"),
        ("extend", {"seconds": 86_401}, "seconds"),
        ("extend", {"seconds": 10**30}, "seconds"),
        ("extend", {"minutes": 1}, "minutes"),
    ],
)
def test_a_bad_end_names_the_field_and_leaves_the_reservation_open(standing_reservation, action, body, field):
    api, reservation_id = standing_reservation
    before = api.outbox_entries()
    is_problem(finish(api, reservation_id, action, body), 422, field)
    assert api.outbox_entries() == before
    assert api.get("/v1/customers/acme/reservations").json()["total"] == 1


@pytest.fixture(scope="module")
def standing_reservation(standing_api):
    return standing_api, reserved(standing_api)["reservation_id"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b'{"quantities":{"\\ud800":1}}', b'{"quantity":1,"quantity":2}', b'{"quantity":NaN}', b"\xff"],
)
def test_bytes_that_are_no_commit_are_refused(standing_reservation, body):
    api, reservation_id = standing_reservation
    path = f"/v1/reservations/{reservation_id}/commit"
    response = api.http.post(path, content=body, headers=api.headers("decide"))
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"lifetime_seconds": 0}, "lifetime_seconds"),
        ({"lifetime_seconds": -1}, "lifetime_seconds"),
        ({"lifetime_seconds": 1.5}, "lifetime_seconds"),
        ({"lifetime_seconds": "60"}, "lifetime_seconds"),
        ({"lifetime_seconds": None}, "lifetime_seconds"),
        ({"lifetime_seconds": True}, "lifetime_seconds"),
        ({"lifetime_seconds": 3601}, "lifetime_seconds"),
        ({"lifetime_seconds": 86_401}, "lifetime_seconds"),
        ({"quantity": 0}, "quantity"),
        ({"meter": "nope"}, "meter"),
        ({"customer_id": ""}, "customer_id"),
        ({"seconds": 60}, "seconds"),
    ],
)
def test_a_bad_reservation_names_the_field(standing_reservation, fields, field):
    api, _ = standing_reservation
    before = api.outbox_entries()
    is_problem(reserve(api, **fields), 422, field)
    assert api.outbox_entries() == before


def test_decisions_have_no_lifetime(standing_api):
    event = {"customer_id": "acme", "meter": "tokens", "quantity": 1, "lifetime_seconds": 5}
    is_problem(standing_api.post("/v1/decisions", event), 422, "lifetime_seconds")


# More than was reserved, as the plan says --------------------------------------------------------------------------------


def test_a_plan_that_rejects_more_than_was_reserved_says_how_much_that_was(api):
    api.contract(plan="careful")
    held = reserved(api, 100)
    refused = finish(api, held["reservation_id"], "commit", {"quantity": 101})
    is_problem(refused, 422, "quantity")
    assert refused.json()["type"].endswith("/above-reserved")
    assert "100" in refused.json()["expected"]
    named = finish(api, held["reservation_id"], "commit", {"quantities": {"tokens": 100, "gpu.seconds": 1}})
    is_problem(named, 422, "quantities.gpu.seconds")
    assert month(api) == (0, 100), "it is open still"
    assert finish(api, held["reservation_id"], "commit", {"quantity": 100}).status_code == 200


def test_a_plan_that_caps_debits_what_was_reserved(api):
    api.contract(plan="capped")
    held = reserved(api, 100)
    other = {"tokens": 150, "gpu.seconds": 3}
    ended = finish(api, held["reservation_id"], "commit", {"quantities": other}).json()
    assert (ended["actual"], ended["committed"]) == ({"gpu.seconds": 3, "tokens": 150}, {"tokens": 100})


def test_a_plan_with_overage_debits_all_of_it_and_other_meters_too(api):
    api.contract()
    held = reserved(api, 100)
    ended = finish(api, held["reservation_id"], "commit", {"quantities": {"tokens": 150, "gpu.seconds": 3}}).json()
    assert ended["committed"] == {"gpu.seconds": 3, "tokens": 150}
    assert month(api) == (150, 0)


# What is told of them afterwards -----------------------------------------------------------------------------------------


def test_open_reservations_are_listed_the_first_to_end_first(api):
    api.contract()
    late, soon = reserved(api, 10, lifetime_seconds=600), reserved(api, 20, lifetime_seconds=60)
    listed = api.get("/v1/customers/acme/reservations").json()
    is_described(listed, "OpenReservations")
    assert [item["decision_id"] for item in listed["items"]] == [soon["decision_id"], late["decision_id"]]
    assert (listed["total"], listed["items"][0]["quantities"]) == (2, {"tokens": 20})
    assert [item["overdue"] for item in listed["items"]] == [False, False]
    finish(api, soon["reservation_id"], "release")
    assert api.get("/v1/customers/acme/reservations").json()["total"] == 1
    assert api.get("/v1/customers/nobody/reservations").status_code == 404
    is_problem(api.get("/v1/customers/acme/reservations", scope="decide"), 403)


def test_a_hundred_are_listed_and_all_are_counted(api):
    api.contract()
    for _ in range(103):
        reserved(api, 1)
    listed = api.get("/v1/customers/acme/reservations").json()
    assert (len(listed["items"]), listed["total"]) == (100, 103)


def test_one_that_is_past_its_deadline_and_still_here_is_overdue(api):
    api.contract()
    reserved(api, lifetime_seconds=1)
    reserved(api, lifetime_seconds=300)
    api.ahead_us = 10_000_000
    listed = api.get("/v1/customers/acme/reservations").json()
    assert [item["overdue"] for item in listed["items"]] == [True, False]


def test_a_reservations_decision_and_its_end_are_explained_from_their_records(api, run):
    api.contract()
    held = reserved(api, 100, event_id="run-1", metadata={"model": "claude-5"})
    later = finish(api, held["reservation_id"], "extend", {"seconds": 600}).json()
    ended = finish(api, held["reservation_id"], "commit", {"quantity": 30}).json()
    api.relay_all()
    run(Verifier(api.store).run_once())

    decision = api.get(f"/v1/decisions/{held['decision_id']}").json()
    is_described(decision, "StoredDecision")
    assert {name: decision[name] for name in held if name not in ("reservation_id", "deadline")} == {
        name: value for name, value in held.items() if name not in ("reservation_id", "deadline")
    }
    assert decision["reservation"] == {
        "status": "open",
        "decision_id": None,
        "effective_at": held["effective_at"],
        "deadline": held["deadline"],
        "actual": {},
        "committed": {},
    }
    assert decision["end"]["decision_id"] == ended["decision_id"]
    assert (decision["end"]["status"], decision["end"]["committed"]) == ("committed", {"tokens": 30})

    end = api.get(f"/v1/decisions/{ended['decision_id']}").json()
    is_described(end, "StoredDecision")
    assert (end["kind"], end["reason"]["code"], end["decision_trace"]["mode"]) == ("finish", "committed", "commit")
    assert end["decision_trace"]["event"]["quantities"] == {"tokens": 100}
    assert end["effective_at"] == held["effective_at"]
    assert end["reservation"]["decision_id"] == held["decision_id"]
    assert (end["reservation"]["actual"], end["reservation"]["committed"]) == ({"tokens": 30}, {"tokens": 30})
    assert (end["verified"], end["end"]) == (True, None)
    line = next(line for line in end["decision_trace"]["limits"] if line["id"] == MONTH)
    assert (line["amount"], line["used"], line["reserved"]) == (30, 30, 0)

    extension = api.get(f"/v1/decisions/{later['decision_id']}").json()
    is_described(extension, "StoredDecision")
    assert (extension["reason"]["code"], extension["reservation"]["deadline"]) == ("extended", later["deadline"])

    listed = api.get("/v1/decisions", customer_id="acme").json()
    is_described(listed, "Decisions")
    assert [(item["kind"], item["mode"], item["quantities"]) for item in listed["items"]] == [
        ("finish", "commit", {"tokens": 30}),
        ("finish", "extend", {}),
        ("decision", "reserve", {"tokens": 100}),
    ]


def test_an_expiry_is_explained_as_what_it_is(api, run):
    api.contract()
    held = reserved(api)
    expire(api, run)
    api.relay_all()
    end = api.get(f"/v1/decisions/{held['decision_id']}").json()["end"]
    assert (end["status"], end["reason"], end["committed"]) == ("expired", "expired", {})
    told = api.get(f"/v1/decisions/{end['decision_id']}").json()
    is_described(told, "StoredDecision")
    assert told["reason"]["code"] == "expired"


def test_a_reservation_that_is_open_has_no_end(api):
    api.contract()
    held = reserved(api, event_id="again")
    api.relay_all()
    assert api.get(f"/v1/decisions/{held['decision_id']}").json()["end"] is None


def test_the_id_is_a_token_that_says_nothing_new(api):
    """Metadata that no limit looks at stays out of it: ids go through URLs and logs."""
    api.contract()
    held = reserved(api, metadata={"model": "claude-5", "user": "somebody@example.com"})
    token = read_token(held["reservation_id"], signing_key(api))
    assert json.loads(json.dumps(token.metadata)) == {"model": "claude-5"}
