"""What the sandbox takes and refuses as usage: each sentence and each row of what is known of the real one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sandboxes import CORRECTION, HOSTED, USAGEDB, running_sandbox

ONE = (1, 0, 0, 0)
DUPLICATE = (0, 1, 0, 0)
CONFLICT = (0, 0, 1, 0)
REJECTED = (0, 0, 0, 1)
DAY_MS = 86_400_000


@pytest.fixture
def hosted(tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", "hosted") as sandbox:
        yield sandbox


@pytest.fixture
def usagedb(tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", "usagedb") as sandbox:
        yield sandbox


@pytest.fixture(params=["hosted", "usagedb"])
def either(request, tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", request.param) as sandbox:
        yield sandbox


def refused(sandbox, body):
    """Status and text of a batch that can't be read."""
    answer = sandbox.http.post("/v1/usage/batch", json=body)
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.status_code, answer.text


def without(event, name):
    return {key: value for key, value in event.items() if key != name}


def test_usagedb_reads_no_batch_in_which_a_required_key_is_missing(usagedb):
    good = usagedb.event("e1")
    for name in ("event_id", *USAGEDB):
        status, text = refused(usagedb, {"events": [usagedb.event("e0"), without(good, name)]})
        assert (status, name in text) == (422, True), text
    assert usagedb.send(usagedb.event("e0")) == ONE, "nothing of those batches was taken"


def test_usagedb_reads_no_batch_in_which_a_key_is_of_another_type(usagedb):
    wrong = {
        "event_id": 5,
        "kind": "Refund",
        "correction_ref": {"original_event_id": "e"},
        "account_id": None,
        "subscription_id": 5,
        "product_id": None,
        "meter_id": ["tokens"],
        "model_id": 5,
        "quantity": "10",
        "unit": None,
        "timestamp_ms": "2026-11-18T12:10:00Z",
        "source": None,
        "dimensions": {"region": "eu"},
        "ingested_at_ms": None,
    }
    for name, value in wrong.items():
        sent = {"inner": {"region": 5}} if name == "dimensions" else value
        status, _ = refused(usagedb, {"events": [usagedb.event("e1") | {name: sent}]})
        assert status == 422, name
    for quantity in (1.5, 10.0, True):
        assert refused(usagedb, {"events": [usagedb.event("e1", quantity=quantity)]})[0] == 422
    assert refused(usagedb, {"events": [usagedb.event("e1", dimensions=["region"])]})[0] == 422


def test_usagedb_takes_what_may_be_left_out_in_every_form(usagedb):
    given = {"correction_ref": None, "subscription_id": "sub.1", "model_id": "m"}
    for number, (name, value) in enumerate(given.items()):
        assert usagedb.send(usagedb.event(f"a{number}", **{name: value})) == ONE
        assert usagedb.send(usagedb.event(f"b{number}", **{name: None})) == ONE
        assert usagedb.send(usagedb.event(f"b{number}")) == DUPLICATE, "null and absent are the same"


def test_usagedb_rejects_events_that_break_a_rule_and_takes_the_rest(usagedb):
    for name in ("event_id", "account_id", "product_id", "meter_id"):
        assert usagedb.send(usagedb.event("e1") | {name: ""}) == REJECTED, name
    for at_ms in (0, -1):
        assert usagedb.send(usagedb.event("e1", timestamp_ms=at_ms)) == REJECTED
    for kind in ("Correction", "Retraction"):
        assert usagedb.send(usagedb.event("e1", kind=kind)) == REJECTED, "without what it corrects"
    assert usagedb.send(usagedb.event("e1"), usagedb.event("e2", meter_id="")) == (1, 0, 0, 1)


def test_dimensions_are_at_most_sixteen(usagedb, tmp_path):
    names = {f"d{number}": "x" for number in range(16)}
    assert usagedb.send(usagedb.event("e1", dimensions={"inner": names})) == ONE
    assert usagedb.send(usagedb.event("e2", dimensions={"inner": names | {"d16": "x"}})) == REJECTED
    with running_sandbox(tmp_path / "hosted.sqlite", "hosted") as hosted:
        assert hosted.send(hosted.event("e1", dimensions=names)) == ONE
        assert hosted.send(hosted.event("e2", dimensions=names | {"d16": "x"})) == REJECTED
        assert hosted.send(hosted.event("e3", dimensions={"region": 5})) == REJECTED


def test_the_hosted_api_rejects_an_event_without_a_required_key_or_of_another_type(hosted):
    good = hosted.event("e1")
    for name in ("event_id", *HOSTED):
        assert hosted.send(without(good, name)) == REJECTED, name
        assert hosted.send(good | {name: None}) == REJECTED, name
    for name in ("event_id", "account_id", "meter_id"):
        assert hosted.send(good | {name: ""}) == REJECTED, name
    for name in ("subscription_id", "product_id", "model_id", "source"):
        assert hosted.send(good | {name: 5}) == REJECTED, name
    for quantity in (1.5, "10", True, -1):
        assert hosted.send(good | {"quantity": quantity}) == REJECTED, quantity
    for stamp in ("2026-11-18", "2026-11-18T12:10:00", "yesterday", 1_795_003_800_000, "2026-13-01T00:00:00Z"):
        assert hosted.send(good | {"timestamp": stamp}) == REJECTED, stamp
    for event in (None, "event", 5, []):
        assert hosted.send(event) == REJECTED
    assert hosted.send(good) == ONE


def test_neither_dialect_takes_the_others_events(hosted, tmp_path):
    assert hosted.send(USAGEDB | {"event_id": "e1"}) == REJECTED
    assert hosted.send(hosted.event("e1", **CORRECTION)) == REJECTED, "it has no kinds"
    with running_sandbox(tmp_path / "other.sqlite", "usagedb") as usagedb:
        assert refused(usagedb, {"events": [HOSTED | {"event_id": "e1"}]})[0] == 422


def test_what_is_no_batch_is_refused_in_plain_text(either):
    http = either.http
    for body, status in ((b'{"events": [', 400), (b"", 400), (b"[]", 422), (b"{}", 422), (b'{"events": {}}', 422)):
        answer = http.post("/v1/usage/batch", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, body
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = http.post("/v1/usage/batch", content=b'{"events": []}', headers={"content-type": kind})
        assert (answer.status_code, "Content-Type" in answer.text) == (415, True), kind
    assert either.send() == (0, 0, 0, 0)


def test_a_body_above_two_megabytes_is_too_large(either):
    padding = "x" * (2 * 1024 * 1024)
    assert either.http.post("/v1/usage/batch", json={"events": [], "padding": padding}).status_code == 413


def test_the_same_event_again_is_a_duplicate_and_another_of_its_id_a_conflict_and_the_first_stands(either):
    first = either.event("e1")
    assert either.send(first, first, either.event("e1", quantity=11)) == (1, 1, 1, 0)
    assert either.send(first) == DUPLICATE
    for name, value in (("quantity", 11), ("unit", "char"), ("meter_id", "m"), ("account_id", "b"), ("model_id", "m")):
        assert either.send(first | {name: value}) == CONFLICT, name
    assert either.total("2026-11-18T12:00:00Z", "2026-11-18T13:00:00Z") == 10


def test_when_it_was_ingested_is_no_part_of_an_event(usagedb):
    assert usagedb.send(usagedb.event("e1", ingested_at_ms=1)) == ONE
    assert usagedb.send(usagedb.event("e1", ingested_at_ms=2)) == DUPLICATE
    [event] = usagedb.get("usage/events", **{"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"})["events"]
    assert event["ingested_at_ms"] == usagedb.now_ms, "the server overwrites it"


def test_ids_are_remembered_for_seven_days_and_then_counted_twice(either):
    assert either.send(either.event("e1")) == ONE
    either.now_ms += 7 * DAY_MS - 1
    assert either.send(either.event("e1")) == DUPLICATE
    either.now_ms += 1
    assert either.send(either.event("e1")) == ONE
    assert either.total("2026-11-18T12:00:00Z", "2026-11-18T13:00:00Z", source="raw") == 20


def test_only_the_last_ids_are_remembered_of_all_accounts_together(tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", "usagedb", remembered_ids=3) as sandbox:
        assert sandbox.send(*(sandbox.event(f"e{number}", account_id=f"a{number}") for number in range(3))) == (
            3,
            0,
            0,
            0,
        )
        assert sandbox.send(sandbox.event("e0", account_id="a0")) == DUPLICATE
        assert sandbox.send(sandbox.event("e3")) == ONE
        assert sandbox.send(sandbox.event("e1", account_id="a1")) == DUPLICATE
        assert sandbox.send(sandbox.event("e0", account_id="a0")) == ONE, "forgotten, so it counts twice"


def test_a_closed_period_refuses_usage_and_takes_corrections_as_adjustments(usagedb):
    assert usagedb.send(usagedb.event("e1"), usagedb.event("e2", **CORRECTION)) == (2, 0, 0, 0)
    period = "/v1/accounts/acme/periods/2026-11"
    assert usagedb.get("periods/2026-11") | {"state": "Open", "total_quantity": "6"} == usagedb.get("periods/2026-11")
    for again in (False, True):
        closed = usagedb.http.post(f"{period}/close")
        assert closed.json()["state"] == "Closed"
        assert closed.json().get("already_closed", False) is again
    assert usagedb.send(usagedb.event("e3")) == REJECTED
    assert usagedb.send(usagedb.event("e1")) == REJECTED, "a duplicate, too"
    assert usagedb.send(usagedb.event("e4", at=datetime(2026, 12, 1, tzinfo=UTC))) == ONE
    assert usagedb.send(usagedb.event("e5", at=datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC))) == ONE
    assert usagedb.send(usagedb.event("e6", account_id="other")) == ONE
    assert usagedb.send(usagedb.event("e7", **CORRECTION), usagedb.event("e8", **CORRECTION | {"kind": "Retraction"})) == (
        2, 0, 0, 0,
    )  # fmt: skip
    told = usagedb.get("periods/2026-11")
    assert told["state"] == "Closed"
    assert told["frozen"] == {"quantity": "6", "event_count": 2}, "frozen when it was closed first"
    assert [event["event_id"] for event in told["pending_adjustments"]] == ["e7", "e8"]
    assert (told["adjustments_quantity"], told["net_total"]) == ("-8", "-2")
    assert usagedb.http.post(f"{period}/reopen").json()["state"] == "Open"
    assert usagedb.send(usagedb.event("e3")) == ONE
    assert usagedb.get("periods/2026-11")["total_quantity"] == "8"


def test_a_period_is_a_month_or_an_internal_error(either):
    for month in ("2026", "2026-13", "november"):
        for method, path in (("GET", month), ("POST", f"{month}/close"), ("POST", f"{month}/reopen")):
            answer = either.http.request(method, f"/v1/accounts/acme/periods/{path}")
            assert answer.status_code == 500
            assert answer.text.startswith("Internal server error: invalid period")


def test_what_is_acknowledged_is_there_after_a_restart_in_either_dialect(tmp_path):
    path = tmp_path / "book.sqlite"
    with running_sandbox(path, "usagedb") as sandbox:
        sandbox.send(sandbox.event("e1"), sandbox.event("e2", **CORRECTION))
    with running_sandbox(path, "hosted") as sandbox:
        same = sandbox.event("e1", product_id="api", source="gateway")
        assert sandbox.send(same) == DUPLICATE
        assert sandbox.total("2026-11-18T12:00:00Z", "2026-11-18T13:00:00Z") == 6
