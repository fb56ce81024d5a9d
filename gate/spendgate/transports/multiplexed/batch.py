"""Commands that go out together, and the two queues they pass through.

The timeout is the same for every command, so deadlines expire in the order of submission and one timer, set to the
oldest, serves thousands of calls: a timer or a task for each would cost more than the call itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from spendgate.errors import GateUnavailable
from spendgate.transports.multiplexed.pipe import Pipe

MAX_BACKLOG_BYTES: Final = 32 * 1024 * 1024


class Batch:
    """Commands that are submitted together: they share a deadline and a write.

    Not yet sent while `pipe` is None. `room` is how many commands it may hold.
    """

    __slots__ = ("commands", "deadline", "end", "futures", "pipe", "room")

    def __init__(self, deadline: float, room: int) -> None:
        self.deadline = deadline
        self.room = room
        self.futures: list[asyncio.Future[Any]] = []
        self.commands: list[bytes] = []
        self.pipe: Pipe | None = None
        self.end = 0

    def send(self, pipe: Pipe, now: float) -> None:
        """Write it, without the commands whose callers have given up: those were never executed."""
        alive = [
            (future, command) for future, command in zip(self.futures, self.commands, strict=True) if not future.done()
        ]
        self.futures = [future for future, _ in alive]
        pipe.write(self.futures, [command for _, command in alive], now)
        self.pipe = pipe
        self.end = pipe.sent
        self.commands = []

    def is_answered(self) -> bool:
        """Whether every command was answered, or failed with its connection."""
        return self.pipe is not None and self.end <= self.pipe.received

    def fail(self, message: str) -> int:
        """Give an error to every caller that still waits; how many there were."""
        waiting = [future for future in self.futures if not future.done()]
        for future in waiting:
            future.set_exception(GateUnavailable(message, "no" if self.pipe is None else "unknown"))
        return len(waiting)


class Backlog:
    """Batches that wait for a connection, or for a slow one to take more. Bounded in bytes."""

    def __init__(self) -> None:
        self.length = 0
        self._bytes = 0
        self._batches: deque[tuple[Batch, int]] = deque()

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, batch: Batch) -> None:
        """Keep it, or fail its callers because too much waits already."""
        size = sum(map(len, batch.commands))
        if self._bytes + size > MAX_BACKLOG_BYTES:
            batch.fail(f"more than {MAX_BACKLOG_BYTES} bytes wait to be sent to Redis")
            return
        self._batches.append((batch, size))
        self._bytes += size
        self.length += len(batch.futures)

    def pop(self) -> Batch:
        """The oldest."""
        batch, size = self._batches.popleft()
        self._bytes -= size
        self.length -= len(batch.futures)
        return batch

    def drop_expired(self, now: float) -> None:
        while self._batches and self._batches[0][0].deadline <= now:
            self.pop()

    def fail(self, message: str) -> None:
        """Fail all callers that wait here."""
        while self._batches:
            self.pop().fail(message)


class Deadlines:
    """Batches that are not answered yet, oldest first, and the timer for the oldest.

    `on_expired(batch, now)` is called at a batch's deadline, once. Batches must be added in the order of their deadlines.
    """

    def __init__(self, on_expired: Callable[[Batch, float], None]) -> None:
        self._on_expired = on_expired
        self._batches: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, batch: Batch) -> None:
        batches = self._batches
        while batches and batches[0].is_answered():
            batches.popleft()
        batches.append(batch)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(batch.deadline, self._expire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        batches = self._batches
        while batches and (batches[0].is_answered() or batches[0].deadline <= now):
            batch = batches.popleft()
            if not batch.is_answered():
                self._on_expired(batch, now)
        if batches:
            self._timer = loop.call_at(batches[0].deadline, self._expire)
