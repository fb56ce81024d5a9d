"""The job boundary: whatever a job raises is counted and survived, and a run has a deadline."""

from __future__ import annotations

import asyncio
import functools

import pytest
from prometheus_client import REGISTRY

from spendgate_daemon.jobs import Job


def on_a_loop(test):
    """Run a coroutine test."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def count(name: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("spendgate_job_runs_total", {"job": name, "outcome": outcome}) or 0.0


@on_a_loop
async def test_a_failure_is_counted_and_survived():
    async def work() -> int:
        raise RuntimeError("sick sink")

    job = Job("sick", work)
    assert await job.run_once() is None
    assert (job.failures, job.last_success, count("sick", "failure")) == (1, None, 1.0)


@on_a_loop
async def test_a_run_that_takes_too_long_is_a_failure():
    async def work() -> int:
        await asyncio.Event().wait()
        return 1

    job = Job("stuck", work, deadline_seconds=0.01)
    assert await job.run_once() is None
    assert job.failures == 1


@on_a_loop
async def test_a_loop_goes_on_after_failures_and_while_there_is_work_and_ends_when_told():
    stopping = asyncio.Event()
    results = iter([OSError("gone"), 3, 0, 2])
    seen = []

    async def work() -> int:
        result = next(results, None)
        seen.append(result)
        if result is None:
            stopping.set()
            return 0
        if isinstance(result, OSError):
            raise result
        return result

    job = Job("loop", work, idle_seconds=0)
    async with asyncio.timeout(10):
        await job.loop(stopping)
    assert [str(each) for each in seen] == ["gone", "3", "0", "2", "None"]
    assert job.failures == 0
    assert job.last_success is not None


@on_a_loop
async def test_cancelling_ends_a_run():
    async def work() -> int:
        await asyncio.Event().wait()
        return 1

    task = asyncio.create_task(Job("cancelled", work).run_once())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
