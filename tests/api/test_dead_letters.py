"""Dead letters: seen with their cause, tried again, or discarded by somebody who says why."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from spendgate_daemon.api.openapi import openapi_document
from spendgate_daemon.cli.dead_letters import discard, list_, retry

USAGE = "usagebox.usage"
WHY = "sent by hand, ticket 4711"


def described(answer, name):
    document = openapi_document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    assert [f"{e.json_path} {e.message}" for e in Draft202012Validator(schema).iter_errors(answer)] == []
    return answer


@pytest.fixture
def dead(api):
    """Three decisions whose usage UsageBox refused; the first is the oldest."""
    api.contract()
    made = [api.decide(1)["decision_id"] for _ in range(3)]
    api.relay_all()
    waiting = api.store.deliveries.waiting(USAGE, 9)
    api.store.deliveries.mark(USAGE, [each.position for each in waiting], "dead", error="conflict", attempted_at_us=1)
    return made


def letters(api, **query):
    return described(api.get("/v1/dead-letters", sink=USAGE, **query).json(), "DeadLetters")


def state_of(api):
    return next(sink for sink in api.get("/v1/sync").json()["relays"] if sink["sink"] == USAGE)


def test_they_are_listed_with_their_cause_the_newest_first(api, dead):
    page = letters(api)
    assert [each["item_id"] for each in page["items"]] == dead[::-1]
    assert {(each["error"], each["customer_name"], each["attempts"]) for each in page["items"]} == {
        ("conflict", "Acme", 1)
    }
    assert [each["decision_id"] for each in page["items"]] == dead[::-1]


def test_they_page(api, dead):
    first = letters(api, limit=2)
    second = letters(api, limit=2, cursor=first["next_cursor"])
    assert [each["item_id"] for each in first["items"] + second["items"]] == dead[::-1]
    assert second["next_cursor"] is None


def test_one_is_tried_again(api, dead):
    position = letters(api)["items"][0]["position"]
    path = f"/v1/dead-letters/{USAGE}/{position}/retry"
    assert api.post(path, scope="admin").json() == {"sink": USAGE, "retried": 1}
    assert [each["item_id"] for each in letters(api)["items"]] == dead[1::-1]
    assert (state_of(api)["dead"], state_of(api)["pending"]) == (2, 1)
    assert api.post(path, scope="admin").status_code == 404


def test_all_of_a_sink_are_tried_again(api, dead):
    assert api.post(f"/v1/dead-letters/{USAGE}/retry", scope="admin").json()["retried"] == 3
    assert letters(api)["items"] == []
    assert api.post(f"/v1/dead-letters/{USAGE}/retry", scope="admin").json()["retried"] == 0


def test_a_discarded_one_stays_to_be_seen_with_who_did_it_and_why(api, dead):
    position = letters(api)["items"][0]["position"]
    path = f"/v1/dead-letters/{USAGE}/{position}"
    letter = described(api.post(f"{path}/discard", {"reason": WHY}, scope="admin").json(), "DeadLetter")
    assert (letter["state"], letter["discarded_by"], letter["discard_reason"]) == ("discarded", "admin@test", WHY)
    assert letter["error"] == "conflict"
    assert len(letters(api, state="dead")["items"]) == 2
    assert letters(api, state="discarded")["items"] == [letter]
    assert (state_of(api)["dead"], state_of(api)["discarded"]) == (2, 1)
    (event,) = api.get("/v1/guardrail-events", kind="delivery_discarded").json()["items"]
    assert (event["customer_id"], event["decision_id"]) == ("acme", dead[2])
    assert all(word in event["message"] for word in (USAGE, dead[2], WHY, "admin@test"))
    (delivery,) = api.get(f"/v1/decisions/{dead[2]}").json()["deliveries"]
    assert delivery["state"] == "discarded"
    for action in ("retry", "discard"):
        again = api.post(f"{path}/{action}", {"reason": WHY}, scope="admin")
        assert (again.status_code, again.json()["type"].rsplit("/", 1)[1]) == (409, "conflict")
        assert "admin@test" in again.json()["detail"]
    assert api.post(f"/v1/dead-letters/{USAGE}/retry", scope="admin").json()["retried"] == 2
    assert letters(api)["items"] == [letter], "what was discarded is not tried again with the others"


@pytest.mark.parametrize("path", [f"{USAGE}/retry", f"{USAGE}/1/retry", f"{USAGE}/1/discard"])
@pytest.mark.parametrize("scope", ["read", "override", "decide"])
def test_only_an_administrator_may(api, dead, path, scope):
    response = api.post(f"/v1/dead-letters/{path}", {"reason": WHY}, scope=scope)
    assert response.status_code == 403
    assert state_of(api)["dead"] == 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "sink"),
        ({"sink": "kafka"}, "sink"),
        ({"sink": "\n"}, "sink"),
        ({"sink": USAGE, "state": "pending"}, "state"),
        ({"sink": USAGE, "cursor": "x"}, "cursor"),
        ({"sink": USAGE, "cursor": "-1"}, "cursor"),
        ({"sink": USAGE, "limit": "201"}, "limit"),
        ({"sink": USAGE, "sinks": "x"}, "sinks"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_by_name(standing_api, query, field):
    response = standing_api.get("/v1/dead-letters", **query)
    assert (response.status_code, response.json()["field"]) == (422, field)


@pytest.mark.parametrize(
    "place", ["kafka/1", f"{USAGE}/1", f"{USAGE}/x", f"{USAGE}/²", f"{USAGE}/{10**30}", f"{USAGE}/-1"]
)
@pytest.mark.parametrize("action", ["retry", "discard"])
def test_a_dead_letter_that_is_not_there_is_not_found(standing_api, place, action):
    response = standing_api.post(f"/v1/dead-letters/{place}/{action}", {"reason": WHY}, scope="admin")
    assert response.status_code == 404


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": "short"}, {"reason": 5}, {"reason": "x" * 1001}, {"by": "me"}]
)
def test_who_discards_says_why(api, dead, body):
    position = letters(api)["items"][0]["position"]
    response = api.post(f"/v1/dead-letters/{USAGE}/{position}/discard", body, scope="admin")
    assert response.status_code == 422
    assert response.json()["field"] in ("reason", "by")
    assert state_of(api)["dead"] == 3


@pytest.fixture
def command_line(api, monkeypatch, tmp_path):
    monkeypatch.setenv("SPENDGATE_API_URL", api.url)
    monkeypatch.setenv("SPENDGATE_ADMIN_KEY", api.keys["admin"])
    monkeypatch.setenv("SPENDGATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def test_the_command_lists_retries_and_discards(api, dead, command_line, capsys):
    list_()
    printed = capsys.readouterr().out
    assert all(item in printed for item in [*dead, "conflict", "acme"])
    positions = [each["position"] for each in letters(api)["items"]]
    discard(USAGE, positions[0], reason=WHY)
    assert "discarded by admin@test" in capsys.readouterr().out
    retry(USAGE, positions[1])
    assert capsys.readouterr().out == "1 are tried again\n"
    list_(state="discarded")
    assert WHY in capsys.readouterr().out
    retry(USAGE)
    assert capsys.readouterr().out == "1 are tried again\n"
    assert (state_of(api)["dead"], state_of(api)["pending"], state_of(api)["discarded"]) == (0, 2, 1)


def test_the_command_says_why_nothing_was_done(api, dead, command_line, capsys):
    with pytest.raises(SystemExit):
        retry("kafka")
    with pytest.raises(SystemExit):
        discard(USAGE, 1, reason="short")
    told = capsys.readouterr().err
    assert "there is no sink 'kafka'" in told
    assert "reason must be" in told
