"""Sends one event until it is answered: the same bytes each time, so that the gate debits them once.

A process that is killed between the debit and its answer leaves an attempt whose outcome nobody knows. The event's id
makes it safe to ask again; giving up early would not.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import msgspec

from spendgate_daemon.traffic.connection import Answer, Connection, Target
from spendgate_daemon.traffic.events import TrafficEvent
from spendgate_daemon.traffic.options import TrafficError, TrafficOptions
from spendgate_daemon.traffic.summary import Tally

FIRST_WAIT_SECONDS: Final = 0.05
LONGEST_WAIT_SECONDS: Final = 1.0


class _Reason(msgspec.Struct, frozen=True):
    code: str = ""


class _Decision(msgspec.Struct, frozen=True):
    decision: str
    duplicate: bool = False
    reason: _Reason = _Reason()


_decode = msgspec.json.Decoder(_Decision).decode


class Sender:
    """One worker's connection. Not for use by two tasks at once."""

    def __init__(self, target: Target, options: TrafficOptions, tally: Tally, stopping: asyncio.Event) -> None:
        self._target = target
        self._options = options
        self._tally = tally
        self._stopping = stopping
        self._connection: Connection | None = None

    async def send(self, event: TrafficEvent) -> None:
        """Tally the event's decision, or its failure. When the run is being stopped an event without an answer stays
        open. Raises TrafficError when the key is not accepted."""
        started = time.perf_counter()
        wait_seconds = FIRST_WAIT_SECONDS
        while True:
            asked_seconds: float | None = None
            try:
                answer = await self._attempt(event.body)
            except (OSError, TimeoutError) as exc:
                problem = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
            else:
                if answer.status != 429 and answer.status < 500:
                    self._settle(event, answer, (time.perf_counter() - started) * 1000)
                    return
                problem, asked_seconds = _problem_of(answer), answer.retry_after_seconds
            if time.perf_counter() - started > self._options.retry_seconds:
                self._tally.failed(event.row, f"no decision within {self._options.retry_seconds:g} s: {problem}")
                return
            self._tally.retries += 1
            # Spread, so that all workers do not knock at once when the API is back.
            pause_seconds = min(asked_seconds or wait_seconds, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311
            if await _stopped_within(self._stopping, pause_seconds):
                return
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _attempt(self, body: bytes) -> Answer:
        try:
            async with asyncio.timeout(self._options.timeout_seconds):
                if self._connection is None or not self._connection.usable:
                    self._connection = await Connection.open(self._target)
                return await self._connection.post(body)
        except BaseException:
            self.close()
            raise

    def _settle(self, event: TrafficEvent, answer: Answer, latency_ms: float) -> None:
        if answer.status in (401, 403):
            raise TrafficError(f"the API refuses the key: {_problem_of(answer)}")
        if answer.status != 200:
            self._tally.failed(event.row, _problem_of(answer))
            return
        try:
            decision = _decode(answer.body)
        except msgspec.MsgspecError as exc:
            self._tally.failed(event.row, f"an answer that is no decision: {exc}")
            return
        self._tally.duplicates += decision.duplicate
        self._tally.decided(event.row, decision.decision, decision.reason.code, event.quantities, latency_ms)


async def _stopped_within(stopping: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await stopping.wait()
    except TimeoutError:
        return False


def _problem_of(answer: Answer) -> str:
    try:
        problem = msgspec.json.decode(answer.body)
        text = str(problem.get("detail") or problem.get("title")) if isinstance(problem, dict) else ""
    except msgspec.MsgspecError:
        text = answer.body[:200].decode(errors="replace")
    return f"{answer.status} {text[:300]}".strip()
