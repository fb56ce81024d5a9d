"""The metering API in both dialects, field by field: what is sent, and what is read from answers as they were recorded."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from recorded_usagebox import Reply
from spendgate_daemon.usagebox import (
    CorrectionRef,
    DialectUnknown,
    Explanation,
    NotInDialect,
    Period,
    UsageBoxRefused,
    UsageBoxUnavailable,
    UsageEvent,
    Verification,
)
from spendgate_daemon.usagebox.values import ExplainedLine, Frozen

BATCH = "/v1/usage/batch"
PROBE = "/v1/accounts/spendgate-probe/usage"
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)

USAGE = UsageEvent(
    event_id="dec_1",
    account_id="acme",
    meter_id="tokens.output",
    quantity=1200,
    unit="token",
    timestamp_ms=1_795_000_000_007,
    source="spendgate/abc",
    model_id="claude-x",
)
CORRECTION = UsageEvent(
    event_id="cor_1",
    account_id="acme",
    meter_id="tokens.output",
    quantity=-200,
    unit="token",
    timestamp_ms=1_795_000_000_007,
    source="spendgate/abc",
    kind="Correction",
    correction_ref=CorrectionRef("dec_1", "counted twice"),
)
AS_HOSTED = {
    "event_id": "dec_1",
    "account_id": "acme",
    "product_id": "spendgate",
    "meter_id": "tokens.output",
    "model_id": "claude-x",
    "quantity": 1200,
    "unit": "token",
    "timestamp": "2026-11-18T11:06:40.007Z",
    "source": "spendgate/abc",
}
AS_USAGEDB = {
    "event_id": "dec_1",
    "kind": "Usage",
    "correction_ref": None,
    "account_id": "acme",
    "subscription_id": None,
    "product_id": "spendgate",
    "meter_id": "tokens.output",
    "model_id": "claude-x",
    "quantity": 1200,
    "unit": "token",
    "timestamp_ms": 1_795_000_000_007,
    "source": "spendgate/abc",
    "dimensions": {"inner": {}},
    "ingested_at_ms": 0,
}
TAKEN = Reply({"accepted": 1, "duplicates": 0, "conflicts": 0, "rejected": 0})
HOSTED_TOTALS = {"source": "rollup", "groups": [{"meter_id": "claude_tokens", "sum": 41280400, "count": 2310}]}
USAGEDB_TOTALS = {
    "watermark_ms": 1_795_000_000_000,
    "lines": [{"meter_id": "claude_tokens", "quantity": "41280400", "count": 2310}],
}


@pytest.mark.parametrize(("dialect", "expected"), [("hosted", AS_HOSTED), ("usagedb", AS_USAGEDB)])
def test_usage_is_sent_with_these_fields_and_no_others(recorded, client_of, run, dialect, expected):
    recorded.on(BATCH, TAKEN)
    run(client_of(dialect=dialect).send_usage([USAGE]))
    [asked] = recorded.asked
    assert asked.body == {"events": [expected]}
    assert asked.headers["content-type"] == "application/json"


def test_usagedb_takes_corrections_and_retractions_with_what_they_put_right(recorded, client_of, run):
    recorded.on(BATCH, TAKEN)
    run(client_of(dialect="usagedb").send_usage([CORRECTION]))
    sent = recorded.asked[0].body["events"][0]
    assert sent == AS_USAGEDB | {
        "event_id": "cor_1",
        "kind": "Correction",
        "correction_ref": {"original_event_id": "dec_1", "reason": "counted twice"},
        "model_id": None,
        "quantity": -200,
    }


def test_the_hosted_api_has_no_corrections_and_nothing_of_the_batch_is_sent(recorded, client_of, run):
    recorded.on(BATCH, TAKEN)
    with pytest.raises(NotInDialect, match="cor_1 was not sent") as refused:
        run(client_of(dialect="hosted").send_usage([USAGE, CORRECTION]))
    assert refused.value.status == 422, "a relay halves such a batch until the event stands alone"
    assert recorded.asked == []


@pytest.mark.parametrize(
    ("totals", "dialect", "sent"), [(HOSTED_TOTALS, "hosted", AS_HOSTED), (USAGEDB_TOTALS, "usagedb", AS_USAGEDB)]
)
def test_the_dialect_is_found_once_before_anything_is_sent_and_told(recorded, client_of, run, totals, dialect, sent):
    empty = {name: [] if isinstance(value, list) else value for name, value in totals.items()}
    recorded.on(PROBE, Reply(empty))
    recorded.on(BATCH, TAKEN)
    box = client_of()
    with capture_logs() as logs:
        for _ in range(2):
            run(box.send_usage([USAGE]))
    assert recorded.paths() == [PROBE, BATCH, BATCH]
    assert recorded.asked[1].body == {"events": [sent]}
    assert box.dialect == dialect
    [line] = logs
    assert (line["dialect"], line["told_by"]) == (dialect, box.dialect_told_by)


def test_any_answer_of_totals_tells_the_dialect(recorded, client_of, run):
    recorded.on("/v1/accounts/acme/usage", Reply(USAGEDB_TOTALS))
    recorded.on(BATCH, TAKEN)
    box = client_of()
    run(box.totals("acme", START, END, ["meter_id"]))
    run(box.send_usage([USAGE]))
    assert PROBE not in recorded.paths()


def test_a_configured_dialect_is_believed_whatever_the_answers_look_like(recorded, client_of, run):
    recorded.on("/v1/accounts/acme/usage", Reply(USAGEDB_TOTALS))
    box = client_of(dialect="hosted")
    [line] = run(box.totals("acme", START, END, ["meter_id"]))
    assert (box.dialect, box.dialect_told_by, line.quantity) == ("hosted", "the configuration", 41280400)


@pytest.mark.parametrize(
    "reply",
    [
        Reply({"groups": [], "lines": [], "watermark_ms": 1}),
        Reply({"lines": []}),
        Reply({"data": []}),
        Reply("OK"),
        Reply("Internal server error: disk", 500),
        Reply("Not Found", 404),
    ],
)
def test_nothing_is_sent_in_a_guessed_dialect(recorded, client_of, run, reply):
    recorded.on(PROBE, reply)
    recorded.on(BATCH, TAKEN)
    box = client_of()
    with pytest.raises(UsageBoxUnavailable):
        run(box.send_usage([USAGE]))
    assert BATCH not in recorded.paths()
    assert box.dialect is None
    recorded.on(PROBE, Reply(HOSTED_TOTALS))
    assert run(box.send_usage([USAGE])).accepted == 1, "it is asked again the next time"


def test_a_wrong_key_is_told_as_such_and_not_as_a_dialect(recorded, client_of, run):
    recorded.on(PROBE, Reply("Unauthorized", 401))
    with pytest.raises(UsageBoxRefused) as refused:
        run(client_of().find_dialect())
    assert refused.value.status == 401


def test_where_an_account_must_exist_to_have_totals_a_catalog_tells(recorded, client_of, run):
    recorded.on("/api/v1/subscriptions", Reply({"subscriptions": []}))
    box = client_of()
    assert run(box.find_dialect()) == "hosted"
    assert "catalog" in box.dialect_told_by


def test_without_totals_and_catalog_the_dialect_is_unknown(recorded, client_of, run):
    with pytest.raises(DialectUnknown):
        run(client_of().find_dialect())


@pytest.mark.parametrize("answer", [HOSTED_TOTALS, USAGEDB_TOTALS])
def test_totals_are_asked_for_and_read_in_either_dialect(recorded, client_of, run, answer):
    recorded.on("/v1/accounts/a%2Fb/usage", Reply(answer))
    recorded.on("/v1/accounts/a/b/usage", Reply(answer))
    [line] = run(
        client_of().totals("a/b", START, END, ["meter_id", "model_id"], source="raw", meter_id="claude_tokens")
    )
    assert (line.keys, line.quantity) == ({"meter_id": "claude_tokens", "model_id": ""}, 41280400)
    [asked] = recorded.asked
    assert asked.query == (
        "from=2026-11-01T00%3A00%3A00Z&to=2026-12-01T00%3A00%3A00Z&group_by=meter_id%2Cmodel_id&source=raw"
        "&meter_id=claude_tokens"
    )


def test_quantities_beyond_64_bits_are_read_exactly(recorded, client_of, run):
    huge = 2**100 + 1
    recorded.on("/v1/accounts/acme/usage", Reply({"watermark_ms": 1, "lines": [{"quantity": str(huge), "count": 1}]}))
    assert run(client_of().totals("acme", START, END, []))[0].quantity == huge


@pytest.mark.parametrize("line", [{}, {"quantity": "lots"}, {"quantity": None}, {"sum": []}, "text"])
def test_totals_that_make_no_sense_are_no_totals(recorded, client_of, run, line):
    recorded.on("/v1/accounts/acme/usage", Reply({"watermark_ms": 1, "lines": [line]}))
    with pytest.raises(UsageBoxUnavailable, match="totals that make no sense"):
        run(client_of().totals("acme", START, END, ["meter_id"]))


def test_events_are_read_in_either_dialect(recorded, client_of, run):
    correction = AS_USAGEDB | {
        "event_id": "cor_1",
        "kind": "Correction",
        "correction_ref": {"original_event_id": "dec_1", "reason": "counted twice"},
        "model_id": None,
        "quantity": -200,
        "ingested_at_ms": 1_795_000_001_000,
    }
    recorded.on("/v1/accounts/acme/usage/events", Reply({"events": [AS_HOSTED, AS_USAGEDB, correction]}))
    found = run(client_of().events("acme", START, END, meter_id="tokens.output"))
    assert found == [USAGE, USAGE, CORRECTION]
    assert recorded.asked[0].query.endswith("&meter_id=tokens.output")


def test_explain_verify_and_periods_are_read_with_their_numbers_as_text(recorded, client_of, run):
    account = "/v1/accounts/acme"
    recorded.on(
        f"{account}/explain",
        Reply(
            {
                "account_id": "acme",
                "from_ms": 1,
                "to_ms": 2,
                "watermark_ms": 3,
                "lines": [
                    {
                        "product_id": "spendgate",
                        "meter_id": "tokens.output",
                        "model_id": "",
                        "source": "spendgate/abc",
                        "unit": "token",
                        "quantity": "1000",
                        "count": 2,
                    }
                ],
                "rollup_segments": ["r1"],
                "rollup_inputs": {"r1": ["s1"]},
                "raw_segments": ["s1"],
                "corrections": [AS_USAGEDB | {"kind": "Retraction", "correction_ref": None}],
            }
        ),
    )
    verified = {"raw_total": "7", "rollup_total": "5", "drift": "2", "matches": False, "period_sealed": True}
    recorded.on(f"{account}/verify", Reply(verified))
    recorded.on(
        f"{account}/periods/2026-10",
        Reply(
            {
                "state": "Closed",
                "frozen": {"quantity": "1200", "event_count": 3},
                "pending_adjustments": [{"event_id": "cor_1"}],
                "adjustments_quantity": "-200",
                "net_total": "1000",
            }
        ),
    )
    recorded.on(f"{account}/periods/2026-11", Reply({"state": "Open", "total_quantity": "17"}))
    box = client_of()
    explanation = run(box.explain("acme", START, END))
    assert isinstance(explanation, Explanation)
    assert explanation.lines == (ExplainedLine("spendgate", "tokens.output", "", "spendgate/abc", "token", 1000),)
    assert [event.kind for event in explanation.corrections] == ["Retraction"]
    assert run(box.verify("acme", START, END)) == Verification(7, 5, 2, matches=False, period_sealed=True)
    assert run(box.period("acme", "2026-10")) == Period("Closed", 1000, Frozen(1200, 3), ({"event_id": "cor_1"},))
    assert run(box.period("acme", "2026-11")) == Period("Open", 17)


@pytest.mark.parametrize("body", [{}, {"state": "Sealed"}, {"state": "Open"}, {"state": "Closed"}, [], "Open"])
def test_a_period_that_makes_no_sense_is_none(recorded, client_of, run, body):
    recorded.on("/v1/accounts/acme/periods/2026-11", Reply(body))
    with pytest.raises(UsageBoxUnavailable, match="make no sense"):
        run(client_of().period("acme", "2026-11"))


def test_subscriptions_follow_cursors_and_links_to_their_end(recorded, client_of, run):
    def one(number):
        return {"customer_id": f"c{number}", "plan_id": "p", "starts_at": "2026-01-01"}

    recorded.on(
        "/api/v1/subscriptions",
        [
            Reply({"subscriptions": [one(1)], "next_cursor": "two"}),
            Reply({"subscriptions": [one(2)], "next": "https://elsewhere.invalid/api/v1/subscriptions?page=3"}),
            Reply({"data": [one(3)], "next_cursor": None}),
        ],
    )
    found = run(client_of().subscriptions())
    assert [each.customer_id for each in found] == ["c1", "c2", "c3"]
    assert [asked.query for asked in recorded.asked] == ["", "cursor=two", "page=3"]


def test_subscriptions_in_a_plain_list_are_all_and_a_missing_catalog_is_none(recorded, client_of, run):
    assert run(client_of().subscriptions()) is None
    recorded.on("/api/v1/subscriptions", Reply([{"customer_id": "c1", "plan_id": "p"}]))
    assert [each.customer_id for each in run(client_of().subscriptions())] == ["c1"]
