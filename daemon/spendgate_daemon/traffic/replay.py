"""A run of traffic: a source of events, the clock that says when each is due, and the workers that send them.

Arrivals do not wait for answers (an open loop) until every worker is busy; then the queue's bound holds the source back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from spendgate_daemon.traffic.connection import Target
from spendgate_daemon.traffic.events import TrafficEvent
from spendgate_daemon.traffic.live import live_events
from spendgate_daemon.traffic.options import TrafficError, TrafficOptions
from spendgate_daemon.traffic.profiles import choose_profiles
from spendgate_daemon.traffic.sender import Sender
from spendgate_daemon.traffic.summary import Tally, TrafficSummary
from spendgate_daemon.traffic.trace import read_trace, trace_events

MAX_LAG_SECONDS: Final = 2.0
"""How far live traffic may fall behind before it lets the time go: after an outage nobody repeats the day."""

BREATH_EVENTS: Final = 64
"""As fast as possible still yields to the workers this often."""


async def run_traffic(options: TrafficOptions) -> TrafficSummary:
    """Send everything that `options` ask for. The live profile ends only with `max_events`, or by being cancelled; use
    TrafficRun to watch it and to stop it with a summary. Raises TrafficError, TraceError."""
    run = TrafficRun(options)
    await run.run()
    return run.summary()


class TrafficRun:
    def __init__(self, options: TrafficOptions) -> None:
        options.check()
        self.options = options
        self.run_id = options.run_id or f"{'live' if options.trace is None else 'trace'}-{secrets.token_hex(4)}"
        self.expected_events: int | None = None
        """How many events there are, once that is known; None: without end."""
        self._tally = Tally(self.run_id, options.first_row)
        self._stopping = asyncio.Event()
        self._queue: asyncio.Queue[TrafficEvent | None] = asyncio.Queue(maxsize=options.concurrency)
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._exhausted = False
        self._refusal: TrafficError | None = None

    async def run(self) -> None:
        """Returns when everything is sent, or was stopped. Raises TrafficError, TraceError."""
        try:
            target = Target.of(self.options.api_url, "/v1/decisions", self.options.decide_key)
        except ValueError as exc:
            raise TrafficError(str(exc)) from exc
        source = await self._source()
        self._started_at = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.options.concurrency):
                    tasks.create_task(self._work(Sender(target, self.options, self._tally, self._stopping)))
                tasks.create_task(self._dispatch(source, self._started_at))
        finally:
            self._ended_at = time.perf_counter()
        if self._refusal is not None:
            raise self._refusal

    def stop(self) -> None:
        """End soon: nothing new is sent, what is under way is waited for."""
        self._stopping.set()

    def summary(self) -> TrafficSummary:
        """So far, at any time."""
        until = self._ended_at or time.perf_counter()
        elapsed_seconds = until - self._started_at if self._started_at is not None else 0.0
        return self._tally.summary(elapsed_seconds, complete=self._exhausted)

    async def _source(self) -> Iterator[TrafficEvent]:
        options = self.options
        profiles = await choose_profiles(options)
        if options.trace is None:
            self.expected_events = options.max_events
            return live_events(self.run_id, profiles, datetime.now(UTC))
        rows = await asyncio.to_thread(read_trace, options.trace)
        if options.max_events is not None:
            rows = rows[: options.first_row + options.max_events]
        self.expected_events = max(0, len(rows) - options.first_row)
        return trace_events(self.run_id, rows, profiles, options.first_row)

    async def _dispatch(self, source: Iterator[TrafficEvent], started_at: float) -> None:
        speed, limit = self.options.speed, self.options.max_events
        for sent, event in enumerate(source, 1):
            if speed > 0:
                lag_seconds = time.perf_counter() - started_at - event.at_seconds / speed
                if self.options.trace is None and lag_seconds > MAX_LAG_SECONDS:
                    started_at += lag_seconds
                if lag_seconds < 0 and await self._stopped_within(-lag_seconds):
                    break
            elif sent % BREATH_EVENTS == 0:
                await asyncio.sleep(0)
            if self._stopping.is_set():
                break
            self._tally.begin(event.row)
            await self._queue.put(event)
            if sent == limit:
                self._exhausted = True
                break
        else:
            self._exhausted = True
        for _ in range(self.options.concurrency):
            await self._queue.put(None)

    async def _work(self, sender: Sender) -> None:
        try:
            while (event := await self._queue.get()) is not None:
                try:
                    await sender.send(event)
                except TrafficError as exc:
                    self._refusal = self._refusal or exc
                    self.stop()
        finally:
            sender.close()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stopping.wait()
        except TimeoutError:
            return False
