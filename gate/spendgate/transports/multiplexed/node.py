"""One Redis, as many tasks of one event loop use it: one connection, made on first use and made again when lost.

A call costs a future and a place in a list. What is submitted in one turn of the event loop goes out together, a few
commands a write, so the more callers there are, the fewer system calls each of them costs. Not all of it in one: Redis
answers what it has read at once, so it and this process would take turns, one idle while the other works.
"""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable
from typing import Any, Final

from spendgate.errors import GateUnavailable
from spendgate.transports import forks
from spendgate.transports.attempts import Attempts
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.multiplexed.batch import Backlog, Batch, Deadlines
from spendgate.transports.multiplexed.pipe import Pipe, open_pipe
from spendgate.transports.session import HANDSHAKE_SECONDS, Session

COMMANDS_A_WRITE: Final = 8
"""Enough to make a system call cheap, and few enough that Redis begins while the others of the turn are made. Measured:
all values from 4 to 12 are equal, without a bound 64 callers get three quarters."""
MAX_IN_FLIGHT: Final = 10_000
"""Commands of one connection that were not answered yet; one more is refused."""
MAX_ABANDONED: Final = MAX_IN_FLIGHT // 2
"""Replies still owed to callers that timed out; with more of them the connection is made anew."""
MIN_PATIENCE_SECONDS: Final = 0.25
"""A silent connection is made anew after this time, or two timeouts if that is longer."""
MIN_LIFE_SECONDS: Final = 1.0
"""A connection to a replica is left after this time, not at once: what cannot be reached otherwise is not hammered."""

Locate = Callable[[], Awaitable[Endpoint]]


class Node:
    """Belongs to the event loop that uses it first; after that loop was closed, to the next one.

    `where` names it in errors; `locate` finds it, anew for each connection.
    """

    def __init__(self, where: object, locate: Locate, session: Session, timeout_seconds: float) -> None:
        self.where = where
        self.loading: set[str] = set()
        """Sources of scripts that are on their way there."""
        self._locate = locate
        self._session = session
        self._timeout_seconds = timeout_seconds
        self._attempts = Attempts()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generation = forks.generation()
        self._forget()

    def _forget(self) -> None:
        """Start anew, without what belongs to an event loop that is gone."""
        self._batch: Batch | None = None
        self._pipe: Pipe | None = None
        self._is_connecting = False
        self._lives: set[asyncio.Task[None]] = set()
        self._backlog = Backlog()
        self._deadlines = Deadlines(self._expired)

    def submit(self, command: bytes) -> tuple[asyncio.Future[Any], Batch]:
        """Send a packed command in the batch that is returned, at the end of this turn of the event loop or sooner.

        The future gets the reply, a ReplyError as a value, or GateUnavailable: at the latest at the batch's deadline.
        """
        loop = get_running_loop()
        batch = self._batch
        if batch is None or loop is not self._loop:
            batch = self._begin_batch(loop)
        elif len(batch.futures) >= batch.room:
            raise self._full()
        future = loop.create_future()
        batch.futures.append(future)
        batch.commands.append(command)
        if len(batch.commands) >= COMMANDS_A_WRITE:
            self._flush()
        return future, batch

    def retire(self, batch: Batch) -> None:
        """The Redis that answered this batch is no master any more: connect anew, to wherever `locate` points by then.

        Commands in flight are still answered.
        """
        pipe = batch.pipe
        loop = get_running_loop()
        if pipe is not None and pipe is self._pipe and loop.time() - pipe.connected_at >= MIN_LIFE_SECONDS:
            self._pipe = None
            loop.call_later(self._timeout_seconds, pipe.close, "it became a replica")

    async def aclose(self) -> None:
        """Close the connection; callers that still wait get GateUnavailable. Idempotent."""
        self._is_closed = True
        if self._loop is not get_running_loop():
            return
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.fail("the transport was closed")
        self._backlog.fail("the transport was closed")
        self._deadlines.stop()
        if self._pipe is not None:
            self._pipe.close("the transport was closed")
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    def _begin_batch(self, loop: asyncio.AbstractEventLoop) -> Batch:
        if self._is_closed:
            raise RuntimeError("the transport is closed")
        if loop is not self._loop:
            self._adopt(loop)
        pipe = self._pipe
        if pipe is None or pipe.lost.done():
            self._connect(loop)
        room = MAX_IN_FLIGHT - self._backlog.length - (pipe.waiting if pipe else 0)
        if room <= 0:
            raise self._full()
        batch = self._batch = Batch(loop.time() + self._timeout_seconds, room)
        self._deadlines.add(batch)
        loop.call_soon(self._flush)
        return batch

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and not self._loop.is_closed() and self._generation == forks.generation():
            raise RuntimeError("this transport is in use in another event loop: make one for each event loop")
        self._loop = loop
        self._generation = forks.generation()
        self._forget()

    def _flush(self) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        pipe = self._pipe
        if pipe is not None and pipe.ready and not self._backlog:
            batch.send(pipe, batch.deadline - self._timeout_seconds)
            return
        try:
            if pipe is None or pipe.lost.done():
                self._connect(get_running_loop())
        except GateUnavailable as exc:
            batch.fail(str(exc))
        else:
            self._backlog.add(batch)

    def _drain(self) -> None:
        now = get_running_loop().time()
        while self._pipe is not None and self._pipe.ready and self._backlog:
            self._backlog.pop().send(self._pipe, now)

    def _expired(self, batch: Batch, now: float) -> None:
        pipe = batch.pipe
        within = f"within {self._timeout_seconds * 1000:g} ms"
        if pipe is None:
            batch.fail(f"could not send to Redis at {self.where} {within}")
            self._backlog.drop_expired(now)
            return
        pipe.abandoned += batch.fail(f"Redis at {self.where} did not answer {within}")
        patience_seconds = max(2 * self._timeout_seconds, MIN_PATIENCE_SECONDS)
        if now - pipe.quiet_since >= patience_seconds:
            pipe.close(f"Redis at {self.where} was silent for {patience_seconds:g} s")
        elif pipe.abandoned > MAX_ABANDONED:
            pipe.close(f"Redis at {self.where} owes {pipe.abandoned} replies that nobody waits for")

    def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_connecting:
            return
        if not self._attempts.claim(loop.time()):
            raise GateUnavailable(self._attempts.last_error, "no")
        self._is_connecting = True
        life = loop.create_task(self._live())
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def _live(self) -> None:
        """The life of one connection. A task, so that the end of the event loop is the end of the connection."""
        pipe = None
        try:
            pipe = await self._open()
        finally:
            self._is_connecting = False
            if pipe is None:
                self._backlog.fail(self._attempts.last_error or "the connection attempt was cancelled")
        if pipe is None:
            return
        self._pipe = pipe
        try:
            self._drain()
            await pipe.lost
        finally:
            pipe.close("the event loop ended")
            if self._pipe is pipe:
                self._pipe = None
        if self._backlog:
            # What it was too slow to take was not sent, and may go out on another.
            try:
                self._connect(get_running_loop())
            except GateUnavailable as exc:
                self._backlog.fail(str(exc))

    async def _open(self) -> Pipe | None:
        """A connection that answers, or None and the reason in the attempts."""
        seconds = max(HANDSHAKE_SECONDS, self._timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                pipe = await open_pipe(await self._locate(), self._session, self._drain)
        except TimeoutError:
            self._attempts.failed(f"cannot connect to Redis at {self.where}: it did not answer within {seconds:g} s")
        except (OSError, ValueError, GateUnavailable) as exc:
            self._attempts.failed(f"cannot connect to Redis at {self.where}: {exc}")
        else:
            self._attempts.succeeded()
            return pipe
        return None

    def _full(self) -> GateUnavailable:
        return GateUnavailable(f"{MAX_IN_FLIGHT} commands wait for Redis at {self.where} already", "no")
