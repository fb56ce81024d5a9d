"""The books over HTTP: what was compared, and comparing again on demand."""

from __future__ import annotations

import pytest

from spendgate.keys import counters_key
from spendgate.limits import PeriodCounter


@pytest.fixture
def counted(api):
    """A customer whose counter says more than its records."""
    api.contract("acme")
    api.decide(100)
    api.relay_all()
    key, field = counters_key("acme"), "quota:tokens-month"
    counter = PeriodCounter.decode(api.run(api.control.redis.hget(key, field)))
    wrong = PeriodCounter(counter.period_start_seconds, 130)
    api.run(api.control.redis.hset(key, field, wrong.encode()))
    return api


def reconcile(api, **body):
    return api.post("/v1/books/reconcile", {"customer_id": "acme", **body}, "admin")


def test_nothing_was_compared_yet(api):
    found = api.get("/v1/books", "read").json()
    assert found["items"] == []
    assert found["counts"] == {"lines": 0, "differ": 0, "drift": 0, "oldest_compared_at": None}


def test_a_dry_run_names_the_difference_and_changes_nothing(counted):
    for _ in range(2):
        done = reconcile(counted, dry_run=True).json()
        (line,) = done["lines"]
        assert (line["enforced"], line["recorded"], line["billed"]) == (130, 100, None)
        assert line["differences"] == [
            {"between": "enforced/recorded", "cause": "drift", "quantity": 30, "sentence": "without a cause"}
        ]
        assert [repair["message"] for repair in done["repairs"]] == ["tokens-month: 30 tokens too much counted"]
    assert counted.get("/v1/books", "read").json()["items"] == []


def test_what_drifts_is_put_right_and_the_lines_are_kept(counted):
    assert reconcile(counted).json()["unexplained"] is False
    counted.relay_all()
    assert reconcile(counted).json()["repairs"] == []
    (line,) = counted.get("/v1/books", customer_id="acme").json()["items"]
    assert (line["customer_name"], line["enforced"], line["differences"]) == ("Acme", 100, [])
    assert counted.get("/v1/books", differs="true").json()["items"] == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "customer_id"),
        ({"customer_id": 7}, 422, "customer_id"),
        ({"customer_id": "nobody"}, 404, None),
        ({"customer_id": "acme", "dry_run": "yes"}, 422, "dry_run"),
        ({"customer_id": "acme", "all": True}, 422, "all"),
    ],
)
def test_bad_input_is_named(counted, body, status, field):
    answer = counted.post("/v1/books/reconcile", body, "admin")
    assert answer.status_code == status
    assert answer.json().get("field") == field


def test_bad_queries_are_named(api):
    assert api.get("/v1/books", differs="maybe").json()["field"] == "differs"
    assert api.get("/v1/books", cursor="x").json()["field"] == "cursor"


def test_reading_needs_read_and_reconciling_needs_admin(counted):
    assert counted.get("/v1/books", "decide").status_code == 403
    assert counted.post("/v1/books/reconcile", {"customer_id": "acme"}, "read").status_code == 403
