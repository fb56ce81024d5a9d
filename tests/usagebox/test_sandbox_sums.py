"""Sums, events, explain and verify of the sandbox, with the engine's traps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sandboxes import CORRECTION, NOW, running_sandbox

HOUR = NOW.replace(minute=0)
DAY = {"from": "2026-11-18T00:00:00Z", "to": "2026-11-19T00:00:00Z"}


@pytest.fixture(params=["hosted", "usagedb"])
def sandbox(request, tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", request.param) as sandbox:
        yield sandbox


@pytest.fixture
def usagedb(tmp_path):
    with running_sandbox(tmp_path / "book.sqlite", "usagedb") as sandbox:
        yield sandbox


def lines(sandbox, **query):
    answer = sandbox.get("usage", **DAY, **query)
    return answer["groups" if sandbox.dialect == "hosted" else "lines"]


def fill(sandbox):
    """Two in the hour before, one in the open one."""
    sandbox.now_ms = int(HOUR.timestamp() * 1000) - 1
    sandbox.send(*(sandbox.event(f"e{minute}", at=HOUR - timedelta(minutes=minute)) for minute in (30, 10)))
    sandbox.now_ms = int(NOW.timestamp() * 1000)
    sandbox.send(sandbox.event("open", at=HOUR + timedelta(minutes=10), quantity=100))


def test_sums_have_the_dialects_shape(tmp_path):
    with running_sandbox(tmp_path / "hosted.sqlite", "hosted") as hosted:
        hosted.send(hosted.event("e1"), hosted.event("e2", model_id="m"))
        assert hosted.get("usage", **DAY, group_by="meter_id,model_id,source,hour_start_ms,day") == {
            "source": "rollup",
            "groups": [
                {
                    "meter_id": "tokens",
                    "model_id": model,
                    "source": None,
                    "hour_start_ms": int(HOUR.timestamp() * 1000),
                    "day": "2026-11-18",
                    "sum": 10,
                    "count": 1,
                }
                for model in (None, "m")
            ],
        }
        assert hosted.get("usage", **DAY, source="raw") == {"source": "raw", "groups": [{"sum": 20, "count": 2}]}
        assert hosted.get("usage", account="nobody", **DAY) == {"source": "rollup", "groups": []}
    with running_sandbox(tmp_path / "usagedb.sqlite", "usagedb") as usagedb:
        usagedb.send(usagedb.event("e1"), usagedb.event("e2", model_id="m"))
        hour_ms = int(HOUR.timestamp() * 1000)
        assert usagedb.get("usage", **DAY, group_by="meter_id, model_id ,hour_start_ms,,day") == {
            "watermark_ms": hour_ms,
            "lines": [
                {
                    "meter_id": "tokens",
                    "model_id": model,
                    "hour_start_ms": str(hour_ms),
                    "day": str(hour_ms - 12 * 3_600_000),
                    "quantity": "10",
                    "count": 1,
                }
                for model in ("", "m")
            ],
        }
        assert usagedb.get("usage", account="nobody", **DAY)["lines"] == [{"quantity": "0", "count": 0}]
        assert usagedb.get("usage", account="nobody", **DAY, group_by="source")["lines"] == []


def test_a_span_is_half_open(sandbox):
    sandbox.send(sandbox.event("first", at=HOUR), sandbox.event("last", at=HOUR + timedelta(minutes=20), quantity=1))
    for source in ("raw", "rollup"):
        assert sandbox.total("2026-11-18T12:00:00Z", "2026-11-18T12:20:00Z", source=source) == 10
        assert sandbox.total("2026-11-18T12:00:00.001Z", "2026-11-18T12:20:00.001Z", source=source) == 1


def test_sums_group_by_every_column_and_by_dimensions_and_filter(sandbox):
    dimensions = {"inner": {"team": "a"}} if sandbox.dialect == "usagedb" else {"team": "a"}
    full = {"product_id": "p", "model_id": "m", "subscription_id": "s", "source": "own", "dimensions": dimensions}
    sandbox.send(sandbox.event("e1", **full), sandbox.event("e2", meter_id="images", quantity=1, product_id="q"))
    total = "sum" if sandbox.dialect == "hosted" else "quantity"
    for name, value in (
        ("product_id", "p"),
        ("model_id", "m"),
        ("source", "own"),
        ("team", "a"),
        ("meter_id", "tokens"),
    ):
        [line] = [line for line in lines(sandbox, group_by=name) if line[name] == value]
        assert int(line[total]) == 10, name
    assert len(lines(sandbox, group_by="unit")) == 1
    for name, value in (("product_id", "p"), ("model_id", "m"), ("meter_id", "tokens")):
        [line] = lines(sandbox, **{name: value})
        assert int(line[total]) == 10, name


def test_the_open_hour_is_current_and_both_sources_agree_on_whole_hours(sandbox):
    fill(sandbox)
    assert sandbox.total("2026-11-18T11:00:00Z", "2026-11-18T13:00:00Z") == 120
    assert sandbox.total("2026-11-18T11:00:00Z", "2026-11-18T13:00:00Z", source="raw") == 120


def test_rollups_count_rows_of_their_own_and_not_events(sandbox):
    fill(sandbox)
    counts = {source: sum(line["count"] for line in lines(sandbox, source=source)) for source in ("raw", "rollup")}
    assert counts == {"raw": 3, "rollup": 2}


def test_an_edge_inside_of_a_rolled_hour_drops_the_first_and_adds_the_whole_last_one(sandbox):
    fill(sandbox)
    assert sandbox.total("2026-11-18T11:00:00.001Z", "2026-11-18T12:00:00Z") == 0, "drops the first"
    assert sandbox.total("2026-11-18T11:00:00Z", "2026-11-18T11:00:00.001Z") == 20, "adds the whole last one"
    assert sandbox.total("2026-11-18T11:40:00Z", "2026-11-18T12:00:00Z", source="raw") == 10


def test_what_comes_after_its_hour_was_rolled_up_is_missing_until_a_rebuild(sandbox):
    sandbox.now_ms = int(HOUR.timestamp() * 1000) + 59_999
    sandbox.send(sandbox.event("in time", at=HOUR - timedelta(minutes=1)))
    sandbox.now_ms += 1
    sandbox.send(sandbox.event("late", at=HOUR - timedelta(minutes=1), quantity=5))
    day = ("2026-11-18T00:00:00Z", "2026-11-19T00:00:00Z")
    assert (sandbox.total(*day), sandbox.total(*day, source="raw")) == (10, 15)
    assert sandbox.http.post("/sandbox/v1/rollups/rebuild").status_code == 200
    assert sandbox.total(*day) == 15


def test_verify_tells_the_drift_of_rollups_and_whether_all_is_rolled_up(sandbox):
    fill(sandbox)
    sandbox.send(sandbox.event("late", at=HOUR - timedelta(minutes=1), quantity=5))
    told = sandbox.get("verify", **{"from": "2026-11-18T11:00:00Z", "to": "2026-11-18T12:00:00Z"})
    assert told["period_sealed"] is True
    assert (told["raw_total"], told["rollup_total"], told["drift"], told["matches"]) == ("25", "20", "5", False)
    assert sandbox.get("verify", **DAY)["period_sealed"] is False


def test_explain_breaks_a_total_down_and_names_corrections_and_segments(usagedb):
    usagedb.send(usagedb.event("e1"), usagedb.event("e2", model_id="m"), usagedb.event("c1", **CORRECTION))
    told = usagedb.get("explain", **DAY)
    keys = {"product_id": "api", "meter_id": "tokens", "source": "gateway", "unit": "token"}
    assert told["lines"] == [
        keys | {"model_id": "", "quantity": "6", "count": 2},
        keys | {"model_id": "m", "quantity": "10", "count": 1},
    ]
    assert [event["event_id"] for event in told["corrections"]] == ["c1"]
    assert told["rollup_segments"]
    assert told["raw_segments"]


def test_events_come_whole_in_order_and_filtered(sandbox):
    sandbox.send(sandbox.event("b", at=HOUR + timedelta(minutes=2)), sandbox.event("a", at=HOUR, meter_id="images"))
    assert [event["event_id"] for event in sandbox.get("usage/events", **DAY)["events"]] == ["a", "b"]
    [event] = sandbox.get("usage/events", **DAY, meter_id="images")["events"]
    sent = sandbox.event("a", at=HOUR, meter_id="images")
    if sandbox.dialect == "hosted":
        sent |= {"timestamp": "2026-11-18T12:00:00.000Z", "dimensions": {}}
    else:
        sent |= {"correction_ref": None, "subscription_id": None, "model_id": None, "ingested_at_ms": sandbox.now_ms}
    assert event == sent
    assert sandbox.get("usage/events", account="nobody", **DAY) == {"events": []}


@pytest.mark.parametrize("what", ["usage", "usage/events", "explain", "verify"])
def test_a_missing_edge_is_a_bad_request_and_an_invalid_one_an_internal_error(sandbox, what):
    for name in ("from", "to"):
        other = {key: value for key, value in DAY.items() if key != name}
        answer = sandbox.http.get(f"/v1/accounts/acme/{what}", params=other)
        assert (answer.status_code, f"`{name}`" in answer.text) == (400, True)
        for bad in ("", "x", "2026-11-18", "2026-11-18T00:00:00", "1795003800000"):
            answer = sandbox.http.get(f"/v1/accounts/acme/{what}", params=other | {name: bad})
            assert answer.status_code == 500, bad
            assert answer.text.startswith(f"Internal server error: invalid `{name}`")
            assert answer.headers["content-type"].startswith("text/plain")


def test_instants_with_another_offset_are_the_same_instants(sandbox):
    sandbox.send(sandbox.event("e1", at=datetime(2026, 11, 18, 12, 10, tzinfo=UTC)))
    assert sandbox.total("2026-11-18T13:00:00+01:00", "2026-11-18T14:00:00+01:00") == 10
