"""`spendgate policy check`: what people read about a file, and the exit code."""

from __future__ import annotations

from importlib.resources import files

from spendgate_daemon.documents import check_file

DEFAULT = files("spendgate_daemon.documents").joinpath("default.yaml")


def test_a_good_file_is_described_limit_by_limit():
    report, code = check_file(str(DEFAULT))
    assert code == 0
    assert "good" in report
    assert "runs-month: 10,000 of ai_agent_run per month, then stop, told at 80%, 95%" in report
    assert (
        "output-month: the contractual cap of tokens.output per month from the customer's billing day in the customer's "
        "time zone, overage billed, told at 80%, 100%" in report
    ), "what is billed never stops"
    assert "agent-day: 200,000 of ai_agent_run per day, for each agent_id (at most 500), then stop" in report
    assert "opus-rate: 1500000/min of tokens.*, where model is claude-opus-*, then throttle" in report
    assert "runs-open: at most 100 runs open at once, then throttle" in report
    assert (
        "wallet: credits for tokens.input, tokens.output, gpu.seconds, then stop, floor 1, in an outage 50 credits"
        in report
    )
    assert "outage allowance 1% of each cap" in report
    assert "held 5m, at most 1h, grace 30s, released at the deadline, a larger commit goes over" in report
    assert "context: context_window at most 8,000 in one event, then stop" in report
    assert "output-day: 20,000,000 of tokens.output per day, then stop (shadow)" in report


def test_every_fault_is_told_at_once(tmp_path):
    bad = tmp_path / "bad.yaml"
    text = DEFAULT.read_text(encoding="utf-8").replace("version: 1", "version: 2", 1)
    bad.write_text(text.replace("cap: 10000", "cap: lots").replace("max: 8000", "max: -1"))
    report, code = check_file(bad)
    assert code == 1
    assert report.startswith(f"{bad}: 3 faults")
    assert 'plans.free.limits[0].cap: "lots" can\'t be used; expected a whole number of units' in report


def test_a_file_that_is_not_there_is_told_apart_from_a_faulty_one(tmp_path):
    report, code = check_file(tmp_path / "none.yaml")
    assert code == 2
    assert "No such file" in report
    assert check_file(tmp_path)[1] == 2
