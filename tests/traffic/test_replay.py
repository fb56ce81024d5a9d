"""Runs against the real API: what they sum up to, what interrupts them, and that nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import io
import os
import signal

import msgspec
import pytest
from rich.console import Console

from spendgate_daemon.demo import DEMO_CUSTOMERS
from spendgate_daemon.traffic import (
    TrafficError,
    TrafficOptions,
    TrafficRun,
    TrafficSummary,
    run_traffic,
    run_traffic_command,
)
from spendgate_daemon.traffic.profiles import choose_profiles

IDS = [customer.customer_id for customer in DEMO_CUSTOMERS]
CALM = ("halden-insurance", "orchard-health")
"""Enterprise: their rate is far above what these tests send."""


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:15:{number // 50:02d}.{number % 50:02d},{50 + number},7\n" for number in range(1000))
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    return path


@pytest.fixture
def options(api, keys, trace):
    decide_key, read_key = keys
    return TrafficOptions(api_url=api.url, decide_key=decide_key, read_key=read_key, trace=trace, speed=0, run_id="r1")


def changed(options, **fields):
    return msgspec.structs.replace(options, **fields)


def used(gate, run, customer_ids):
    """What the gate debited, per limit of runs or tokens of all given customers."""
    snapshots = run(gate.snapshots(list(customer_ids)))
    return sum(line.used for snapshot in snapshots for line in snapshot.limits() if line.id == "output-day")


def test_a_replay_is_decided_row_by_row_and_its_units_are_what_the_gate_debited(options, gate, run):
    summary = run(run_traffic(changed(options, customers=CALM)))
    assert (summary.events, summary.allowed, summary.errors) == (1000, 1000, 0)
    assert summary.units == {"ai_agent_run": 1000, "tokens.input": sum(range(50, 1050)), "tokens.output": 7000}
    assert used(gate, run, CALM) == 7000
    assert summary.complete
    assert 0 < summary.p50_ms <= summary.p99_ms <= summary.max_ms
    assert TrafficSummary(**msgspec.json.decode(summary.to_json())).events == 1000


def test_the_same_run_again_debits_nothing_twice(options, gate, run):
    run(run_traffic(changed(options, customers=CALM, max_events=300)))
    again = run(run_traffic(changed(options, customers=CALM)))
    assert (again.allowed, again.duplicates, again.errors) == (1000, 300, 0)
    assert used(gate, run, CALM) == 7000


def test_a_run_goes_on_from_any_row(options, gate, run):
    first = run(run_traffic(changed(options, customers=CALM, max_events=400)))
    assert first.next_row == 400
    rest = run(run_traffic(changed(options, customers=CALM, first_row=first.next_row)))
    assert (rest.events, rest.duplicates) == (600, 0)
    assert used(gate, run, CALM) == 7000


def test_killing_the_api_in_the_middle_loses_and_doubles_nothing(options, api, gate, run):
    async def scenario():
        traffic = TrafficRun(changed(options, customers=CALM, concurrency=16))
        running = asyncio.create_task(traffic.run())
        for at_least in (150, 500):
            while traffic.summary().events < at_least:  # noqa: ASYNC110  (a run is watched by its summary)
                await asyncio.sleep(0)
            await asyncio.to_thread(api.kill)
            await asyncio.to_thread(api.start)
        await running
        return traffic.summary()

    summary = run(scenario())
    assert (summary.events, summary.allowed, summary.errors) == (1000, 1000, 0)
    assert summary.retries > 0
    assert used(gate, run, CALM) == 7000


def test_limits_are_met_and_counted_by_reason(options, run):
    summary = run(run_traffic(changed(options, customers=("sundial-labs",), models=("gpt-5-mini",))))
    assert summary.throttled > 0
    assert summary.reasons["rate_exceeded"] == summary.throttled
    forbidden = run(run_traffic(changed(options, customers=("sundial-labs",), models=("gpt-5",), run_id="r2")))
    assert forbidden.stopped == 1000
    assert forbidden.reasons == {"model_not_allowed": 1000}


def test_the_speed_is_kept(options, run):
    summary = run(run_traffic(changed(options, customers=CALM, speed=20.0, concurrency=4)))
    assert summary.events == 1000
    assert 0.97 <= summary.elapsed_seconds < 8


def test_customers_come_from_the_api_in_the_order_of_their_weight(options, run):
    assert [profile.customer_id for profile in run(choose_profiles(options))] == IDS
    assert len(run(choose_profiles(changed(options, customer_count=5)))) == 5
    made = run(choose_profiles(changed(options, customer_prefix="load-", customer_count=3, models=("m",))))
    assert [(profile.customer_id, profile.models) for profile in made] == [
        ("load-001", {"m": 1.0}),
        ("load-002", {"m": 1.0}),
        ("load-003", {"m": 1.0}),
    ]
    assert [p.customer_id for p in run(choose_profiles(changed(options, read_key=None)))] == IDS


def test_an_unknown_customer_is_stopped_and_no_error(options, run):
    summary = run(run_traffic(changed(options, customers=("nobody",), max_events=3)))
    assert (summary.stopped, summary.errors) == (3, 0)
    assert summary.reasons == {"unknown_customer": 3}


def test_a_key_that_is_refused_ends_the_run(options, run):
    with pytest.raises(TrafficError, match="refuses the key: 401"):
        run(run_traffic(changed(options, decide_key="sg_00_wrong")))
    with pytest.raises(TrafficError, match="answers 40"):
        run(run_traffic(changed(options, read_key="sg_00_wrong")))


def test_the_same_id_with_other_content_is_an_error_with_its_text(options, run):
    run(run_traffic(changed(options, customers=CALM[:1], max_events=2)))
    summary = run(run_traffic(changed(options, customers=CALM[:1], max_events=2, models=("other",))))
    assert summary.errors == 2
    assert all(problem.startswith("409") for problem in summary.problems)


def test_nobody_there_is_told_after_the_time_that_was_given(options, api, run):
    api.kill()
    summary = run(run_traffic(changed(options, customers=CALM, max_events=2, retry_seconds=0.1)))
    assert summary.errors == 2
    assert "no decision within 0.1 s: ConnectionRefusedError" in summary.problems[0]


def test_live_traffic_stops_with_a_summary(options, run):
    async def scenario():
        traffic = TrafficRun(changed(options, trace=None, speed=30.0, customers=()))
        running = asyncio.create_task(traffic.run())
        while traffic.summary().events < 100:  # noqa: ASYNC110  (a run is watched by its summary)
            await asyncio.sleep(0)
        traffic.stop()
        await running
        return traffic.summary()

    summary = run(scenario())
    assert summary.errors == 0
    assert not summary.complete
    assert summary.next_row == summary.events


def test_the_command_shows_sums_up_and_ends_well_on_a_signal(options, tmp_path, run):
    console = Console(file=io.StringIO(), width=100)
    report = tmp_path / "summary.json"
    wanted = changed(options, trace=None, speed=5.0, max_events=100_000)

    async def scenario():
        running = asyncio.create_task(run_traffic_command(wanted, console, report))
        await asyncio.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        return await running

    assert run(scenario()) == 0
    assert "continue with" in console.file.getvalue()
    assert msgspec.json.decode(report.read_bytes())["run_id"] == "r1"


def test_the_command_tells_what_is_wrong_in_one_line(options, tmp_path, run):
    console = Console(file=io.StringIO(), width=200)
    assert run(run_traffic_command(changed(options, trace=tmp_path / "none.csv"), console)) == 2
    assert "No such file" in console.file.getvalue()
    assert run(run_traffic_command(changed(options, concurrency=0), console)) == 2
