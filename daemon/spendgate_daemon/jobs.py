"""Background jobs: the boundary where a failure is logged, counted and survived, and the loop that drives a relay.

A job is any coroutine function that does a bounded piece of work and tells how much it was. Nothing that a job raises
gets past `Job.run_once`, so one sick sink never ends another's work, and every run has a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from spendgate_daemon.metrics import JOB_LAST_SUCCESS, JOB_RUNS, JOB_SECONDS, JOB_WORK

FIRST_BACKOFF_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 15.0

_log = structlog.get_logger("spendgate.jobs")


class Job:
    """`deadline_seconds` bounds one run; `attempts` are all that ended, `failures` those since the last success. `idle_seconds` is the wait of `loop` after a run that found nothing to do."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[int]],
        *,
        deadline_seconds: float = 60.0,
        idle_seconds: float = 0.02,
    ) -> None:
        self.name = name
        self.attempts = 0
        self.failures = 0
        self.last_success: float | None = None
        self._work = work
        self._deadline_seconds = deadline_seconds
        self._idle_seconds = idle_seconds

    async def run_once(self) -> int | None:
        """Pieces of work done; None when the run failed, which is logged and counted here and nowhere else."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                done = await self._work()
        except Exception as exc:  # noqa: BLE001  the boundary: whatever a job raises is logged, counted and survived
            self.failures += 1
            JOB_RUNS.labels(self.name, "failure").inc()
            shown = exc if self.failures == 1 else None
            _log.error(
                "a job failed", job=self.name, error=f"{type(exc).__name__}: {exc}", run=self.failures, exc_info=shown
            )
            return None
        finally:
            self.attempts += 1
            JOB_SECONDS.labels(self.name).observe(time.perf_counter() - started)
        if self.failures:
            _log.info("a job recovered", job=self.name, failures=self.failures)
        self.failures = 0
        self.last_success = time.time()
        JOB_LAST_SUCCESS.labels(self.name).set(self.last_success)
        JOB_RUNS.labels(self.name, "success").inc()
        JOB_WORK.labels(self.name).inc(done)
        return done

    async def loop(self, stopping: asyncio.Event) -> None:
        """Run again at once while there is work, after `idle_seconds` when there is none, and ever later while it
        fails; end between two runs."""
        while not stopping.is_set():
            done = await self.run_once()
            if done:
                await asyncio.sleep(0)
                continue
            wait = self._idle_seconds if done == 0 else self._backoff_seconds()
            await wait_for_event(stopping, wait)

    def _backoff_seconds(self) -> float:
        return float(min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(self.failures - 1, 10)))


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event came within the time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
