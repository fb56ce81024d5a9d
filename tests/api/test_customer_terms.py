"""A contract's calendar and its grants over HTTP: what is taken, what is told of it, and what is refused by name."""

from __future__ import annotations

import json
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from spendgate.limits.check import Grant
from spendgate_daemon.mirror.terms import MAX_GRANTS

GRANTS = [
    {"id": "trial", "credits": 5},
    {"id": "spring", "credits": 50, "expires_at": "2199-12-31T23:59:59Z"},
    {"id": "gift", "credits": 7, "expires_at": "2027-01-01T00:00:00+01:00"},
    {"id": "first", "credits": 1, "expires_at": None, "priority": -1},
]


def put(api, body, customer="new"):
    return api.http.put(f"/v1/customers/{customer}", content=json.dumps(body), headers=api.headers("admin"))


def test_grants_are_kept_in_the_order_in_which_they_burn(api):
    response = put(api, {"plan": "prepaid", "credits_granted_total": 3, "grants": GRANTS})
    assert response.status_code == 200, response.text
    told = api.get("/v1/customers/new").json()["policy"]["grants"]
    assert [grant["id"] for grant in told] == ["first", "gift", "spring", "trial"]
    assert told[1] == {"id": "gift", "credits": 7, "expires_at": "2026-12-31T23:00:00Z", "priority": 0}
    assert told[3] == {"id": "trial", "credits": 5, "expires_at": None, "priority": 0}
    state = api.run(api.gate.snapshot("new")).state
    assert state.grants[0] == Grant("first", 1_000_000, 0, -1)
    assert [grant.id for grant in state.grants] == ["first", "gift", "spring", "trial"]
    version = response.json()["version"]
    again = put(api, {"plan": "prepaid", "credits_granted_total": 3, "grants": GRANTS[::-1]})
    assert again.json()["version"] == version, "the same grants in another order are no change"
    fewer = put(api, {"plan": "prepaid", "credits_granted_total": 3, "grants": GRANTS[:1]})
    assert fewer.json()["version"] == version + 1
    assert len(api.run(api.gate.snapshot("new")).state.grants) == 1


def test_terms_that_somebody_overtook_are_not_said_to_be_in_force(api):
    assert put(api, {"plan": "prepaid"}).status_code == 200
    state = api.run(api.gate.snapshot("new")).state
    policy = api.run(api.gate.snapshot("new")).policy
    newer = msgspec.structs.replace(state, version=state.version + 10)
    assert api.run(api.control.put_state("new", newer, policy)), "another process has not stored it yet"
    response = put(api, {"plan": "prepaid", "status": "suspended"})
    assert (response.status_code, response.json()["type"].rsplit("/")[-1]) == (409, "conflict")
    assert put(api, {"plan": "prepaid", "status": "suspended", "version": newer.version + 1}).status_code == 200
    assert api.run(api.gate.snapshot("new")).state.status == "suspended"


def test_a_contract_moves_the_periods_that_ask_for_it(api):
    put(api, {"plan": "prepaid", "timezone": "Asia/Tokyo", "billing_anchor_day": 15})
    one = api.get("/v1/customers/new").json()
    assert (one["policy"]["timezone"], one["policy"]["billing_anchor_day"]) == ("Asia/Tokyo", 15)
    [limit] = [limit for limit in one["limits"] if limit["id"] == "gpu-month"]
    start = datetime.fromisoformat(limit["period_start"]).astimezone(ZoneInfo("Asia/Tokyo"))
    assert (start.day, start.hour) == (15, 0)
    put(api, {"plan": "prepaid"})
    one = api.get("/v1/customers/new").json()
    assert (one["policy"]["timezone"], one["policy"]["billing_anchor_day"], one["policy"]["grants"]) == (None, None, [])
    [limit] = [limit for limit in one["limits"] if limit["id"] == "gpu-month"]
    assert limit["period_start"].endswith("-01T00:00:00Z")


def grants(*changes):
    """Good grants, the last of which is changed."""
    return [{"id": f"g{number}", "credits": 1} | (change or {}) for number, change in enumerate(changes)]


BAD = [
    ({"timezone": "Mars/Base"}, "timezone", "Europe/Berlin"),
    ({"timezone": "contract"}, "timezone", "IANA"),
    ({"timezone": 2}, "timezone", "IANA"),
    ({"timezone": "\ud800"}, "timezone", "IANA"),
    ({"billing_anchor_day": 0}, "billing_anchor_day", "from 1 to 31"),
    ({"billing_anchor_day": 32}, "billing_anchor_day", "from 1 to 31"),
    ({"billing_anchor_day": "15"}, "billing_anchor_day", "from 1 to 31"),
    ({"billing_anchor_day": True}, "billing_anchor_day", "from 1 to 31"),
    ({"grants": {}}, "grants", "a list"),
    ({"grants": None}, "grants", "a list"),
    ({"grants": grants(*[{}] * (MAX_GRANTS + 1))}, "grants", "at most 32"),
    ({"grants": [7]}, "grants[0]", "an object"),
    ({"grants": grants(None, None, {"credits": -1})}, "grants[2].credits", "from 0 to 9000000000"),
    ({"grants": grants(None, {"credits": 1.5})}, "grants[1].credits", "a whole number"),
    ({"grants": [{"id": "a"}]}, "grants[0].credits", "a whole number"),
    ({"grants": [{"credits": 1}]}, "grants[0].id", "text of 1 to 256 bytes"),
    ({"grants": grants(None, {"id": "g0"})}, "grants[1].id", "no other grant"),
    ({"grants": grants({"priority": 1001})}, "grants[0].priority", "from -1000 to 1000"),
    ({"grants": grants({"priority": None})}, "grants[0].priority", "from -1000 to 1000"),
    ({"grants": grants({"expires_at": "2027-01-01"})}, "grants[0].expires_at", "RFC 3339"),
    ({"grants": grants({"expires_at": "2027-01-01T00:00:00"})}, "grants[0].expires_at", "RFC 3339"),
    ({"grants": grants({"expires_at": 1800000000})}, "grants[0].expires_at", "RFC 3339"),
    ({"grants": grants({"expires_at": "1970-01-01T00:00:00Z"})}, "grants[0].expires_at", "from 1970"),
    ({"grants": grants({"expires_at": "2201-01-01T00:00:00Z"})}, "grants[0].expires_at", "to 2200"),
    ({"grants": grants({"amount": 1})}, "grants[0].amount", "known are credits"),
    ({"grants": grants({"credits": 9 * 10**9}), "credits_granted_total": 1}, "grants", "in all"),
]


@pytest.mark.parametrize(
    ("terms", "field", "words"), BAD, ids=[f"{field} {number}" for number, (_, field, _) in enumerate(BAD)]
)
def test_bad_terms_are_refused_by_field_and_change_nothing(standing_api, terms, field, words):
    response = put(standing_api, {"plan": "prepaid"} | terms, customer="bad")
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["field"] == field
    assert words in problem["expected"]
    assert problem["detail"] == f"{field} must be {problem['expected']}"
    assert standing_api.get("/v1/customers/bad").status_code == 404


def test_what_is_null_or_at_an_edge_is_taken(api):
    edges = [
        {"timezone": None, "billing_anchor_day": None, "grants": []},
        {"billing_anchor_day": 31, "grants": grants(*[None] * MAX_GRANTS)},
        {"grants": grants({"credits": 0, "priority": -1000}, {"expires_at": "1970-01-01T00:00:01Z", "priority": 1000})},
        {"grants": grants({"expires_at": "2200-01-01T00:00:00Z"})},
        {"grants": grants({"credits": 9 * 10**9 - 1}), "credits_granted_total": 1},
    ]
    for terms in edges:
        response = put(api, {"plan": "prepaid"} | terms)
        assert response.status_code == 200, response.text
