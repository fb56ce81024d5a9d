"""What the client does when UsageBox is slow, away, broken or busy, over real HTTP."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from recorded_usagebox import Reply
from spendgate_daemon.usagebox import UsageBox, UsageBoxError, UsageBoxHeld, UsageBoxRefused, UsageBoxUnavailable
from spendgate_daemon.usagebox.breaker import FAILURES_MAX, FIRST_OPEN_SECONDS, Breaker
from spendgate_daemon.usagebox.connection import READ_ATTEMPTS, Connection
from spendgate_daemon.usagebox.values import UsageEvent

POLICIES = "/api/v1/policies"
FLAGS = "/api/v1/policies/flags"
BATCH = "/v1/usage/batch"
NOBODY = {"policies": [], "next_cursor": "1"}
EVENT = UsageEvent("e1", "acme", "tokens", 5, "token", 1_764_500_000_000, "spendgate/x")


def clear(box):
    return box.clear_flag("acme", "hard-stop", idempotency_key="k")


def counted(operation, outcome):
    labels = {"operation": operation, "outcome": outcome}
    return REGISTRY.get_sample_value("spendgate_usagebox_request_seconds_count", labels) or 0


def test_a_read_is_repeated_and_what_changes_something_is_not(recorded, client_of, run):
    recorded.on(POLICIES, [Reply("Internal server error: disk", 500), Reply(NOBODY)])
    recorded.on(FLAGS, Reply("Bad Gateway", 502))
    recorded.on(BATCH, Reply("Internal server error: disk", 500))
    box = client_of(dialect="usagedb")
    assert run(box.policies(None)) == ([], "1")
    for call in (clear(box), box.send_usage([EVENT])):
        with pytest.raises(UsageBoxUnavailable):
            run(call)
    assert recorded.paths() == [POLICIES, POLICIES, FLAGS, BATCH]


def test_a_read_is_given_up_after_a_few(recorded, client_of, run):
    recorded.on(POLICIES, Reply("Internal server error: disk", 500))
    with pytest.raises(UsageBoxUnavailable, match="500 Internal server error: disk"):
        run(client_of().policies(None))
    assert len(recorded.asked) == READ_ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 403, 409, 413, 415, 422])
def test_a_refusal_is_told_with_its_text_and_not_repeated(recorded, client_of, run, status):
    recorded.on(POLICIES, Reply("Failed to deserialize the JSON body", status))
    with pytest.raises(UsageBoxRefused, match="Failed to deserialize") as refused:
        run(client_of().policies(None))
    assert refused.value.status == status
    assert len(recorded.asked) == 1


def test_a_redirect_is_no_answer_and_is_not_followed(recorded, client_of, run):
    recorded.on(POLICIES, Reply("", 302, {"location": "https://elsewhere.invalid/"}))
    with pytest.raises(UsageBoxRefused):
        run(client_of().policies(None))


@pytest.mark.parametrize("body", ["", "OK", "<html>", {}, [], {"policies": [{}], "next_cursor": "1"}])
def test_an_answer_that_makes_no_sense_is_as_good_as_none(recorded, client_of, run, body):
    recorded.on(POLICIES, Reply(body))
    with pytest.raises(UsageBoxUnavailable, match="make no sense"):
        run(client_of().policies(None))


@pytest.mark.parametrize(
    "body", [{"accepted": 0, "duplicates": 0, "conflicts": 0, "rejected": 0}, {"accepted": 1}, "OK"]
)
def test_a_batch_that_is_not_counted_whole_was_not_taken(recorded, client_of, run, body):
    recorded.on(BATCH, Reply(body))
    with pytest.raises(UsageBoxUnavailable):
        run(client_of(dialect="usagedb").send_usage([EVENT]))


@pytest.mark.parametrize("status", [429, 503])
def test_after_a_push_back_no_operation_sends_before_it_ends(recorded, client_of, run, status):
    recorded.on(POLICIES, Reply("slow down", status, {"retry-after": "30"}))
    box = client_of(dialect="usagedb")
    with pytest.raises(UsageBoxUnavailable) as pushed:
        run(box.policies(None))
    assert pushed.value.retry_after_seconds == 30
    held = counted("send_usage", "held")
    for call in (box.policies(None), clear(box), box.send_usage([EVENT])):
        with pytest.raises(UsageBoxHeld) as waiting:
            run(call)
        assert 29 < waiting.value.retry_after_seconds <= 30
    assert len(recorded.asked) == 1
    assert counted("send_usage", "held") == held + 1
    assert REGISTRY.get_sample_value("spendgate_usagebox_read_rate_per_second") == box.connection.pace.rate == 50


def test_the_breaker_is_one_for_all_operations_and_a_refusal_does_not_open_it(recorded, client_of, run):
    box = client_of()
    for status in (400, 404, 422):
        recorded.on(FLAGS, Reply("no", status))
        for _ in range(FAILURES_MAX):
            with pytest.raises(UsageBoxRefused):
                run(clear(box))
    recorded.on(FLAGS, Reply("Internal server error: disk", 500))
    for _ in range(FAILURES_MAX):
        with pytest.raises(UsageBoxUnavailable):
            run(clear(box))
    before = len(recorded.asked)
    assert REGISTRY.get_sample_value("spendgate_usagebox_breaker", {"spendgate_usagebox_breaker": "open"}) == 1
    with pytest.raises(UsageBoxHeld):
        run(box.policies(None))
    assert len(recorded.asked) == before


def test_half_open_sends_one_and_closes_when_it_is_answered(recorded, client_of, run):
    now = 0.0
    box = client_of()
    breaker = box.connection.breaker = Breaker(lambda: now)
    for _ in range(FAILURES_MAX):
        breaker.settle("failed", probe=breaker.admit())
    now = FIRST_OPEN_SECONDS
    recorded.on(FLAGS, Reply("no such flag", 404, waits=True))

    async def scenario():
        first = asyncio.create_task(clear(box))
        await asyncio.to_thread(recorded.arrived.wait, 20)
        with pytest.raises(UsageBoxHeld):
            await clear(box)
        recorded.released.set()
        with pytest.raises(UsageBoxRefused):
            await first

    run(scenario())
    assert len(recorded.asked) == 1
    assert breaker.state == "closed"


def test_a_server_that_says_nothing_is_left_at_the_deadline_and_so_is_one_that_is_not_there(recorded, client_of, run):
    recorded.on(FLAGS, Reply(waits=True))
    box = client_of(timeout_seconds=0.2)
    silent = counted("clear_flag", "unavailable")
    with pytest.raises(UsageBoxUnavailable):
        run(clear(box))
    assert counted("clear_flag", "unavailable") == silent + 1

    async def nobody():
        async with UsageBox("http://127.0.0.1:1", None, timeout_seconds=1) as other:
            with pytest.raises(UsageBoxUnavailable):
                await clear(other)

    run(nobody())
    recorded.released.set()


def test_a_request_that_is_cancelled_is_counted_and_is_no_failure(recorded, client_of, run):
    recorded.on(FLAGS, Reply(waits=True))
    box = client_of()
    cancelled = counted("clear_flag", "cancelled")

    async def scenario():
        task = asyncio.create_task(clear(box))
        await asyncio.to_thread(recorded.arrived.wait, 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(scenario())
    recorded.released.set()
    assert counted("clear_flag", "cancelled") == cancelled + 1
    assert box.connection.breaker._failures == 0


def test_requests_one_after_the_other_share_a_connection_and_carry_the_key_both_ways(recorded, client_of, run):
    recorded.on(POLICIES, Reply(NOBODY))
    box = client_of()
    for _ in range(10):
        run(box.policies(None))
    assert len({asked.client for asked in recorded.asked}) == 1
    headers = recorded.asked[0].headers
    assert (headers["authorization"], headers["x-api-key"]) == ("Bearer ubx_key", "ubx_key")


def test_without_a_key_none_is_sent(recorded, client_of, run):
    recorded.on(POLICIES, Reply(NOBODY))
    url = str(client_of().connection._http.base_url)

    async def ask():
        connection = Connection(url, None, timeout_seconds=5)
        await connection.read("policies", POLICIES, {})
        await connection.aclose()

    run(ask())
    assert not {"authorization", "x-api-key"} & set(recorded.asked[0].headers)


def test_whoever_answers_at_health_is_alive_and_errors_are_one_family(recorded, client_of, run):
    recorded.on("/health", Reply("OK"))
    assert run(client_of().health()) is True
    recorded.on("/health", Reply("no", 404))
    assert run(client_of().health()) is False
    assert issubclass(UsageBoxHeld, UsageBoxUnavailable)
    assert issubclass(UsageBoxRefused, UsageBoxError)
