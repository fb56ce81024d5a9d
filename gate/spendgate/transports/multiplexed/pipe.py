"""One connection that many tasks share: commands go out in order, and the n-th reply belongs to the n-th command.

The invariant is that a future leaves the queue only when its reply arrives or the connection ends. A caller that gave
up leaves its future behind, done; the late reply is dropped with it, and reaches nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from spendgate.errors import GateUnavailable
from spendgate.transports.endpoint import Endpoint, tune
from spendgate.transports.session import Session


class Pipe(asyncio.Protocol):
    """A connection from the moment it is made until it is lost; it is never used again afterwards.

    `sent` and `received` count commands and replies. `quiet_since` is when the last byte came, or when a command was
    sent to an idle connection: as long as replies are owed, how long Redis has said nothing. `abandoned` counts owed
    replies whose callers timed out; the owner adds to it. `on_writable` is called when writing may go on after a pause.

    The greeting is sent the moment it is connected, because Redis may refuse a connection before it was asked anything.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, greeting: Sequence[bytes], on_writable: Callable[[], None]
    ) -> None:
        self.sent = 0
        self.received = 0
        self.abandoned = 0
        self.quiet_since = self.connected_at = loop.time()
        self.ready = False
        self.lost: asyncio.Future[None] = loop.create_future()
        self.greeted: list[asyncio.Future[Any]] = [loop.create_future() for _ in greeting]
        self._in_flight: deque[asyncio.Future[Any]] = deque()
        self._reader = hiredis.Reader()
        self._now = loop.time
        self._greeting = greeting
        self._on_writable = on_writable
        self._transport: asyncio.Transport | None = None

    @property
    def waiting(self) -> int:
        """Replies that are owed, those that nobody waits for included."""
        return len(self._in_flight)

    def write(self, futures: Sequence[asyncio.Future[Any]], commands: Sequence[bytes], now: float) -> None:
        """Send packed commands, in one write; each future gets its reply (a ReplyError as a value) or GateUnavailable.

        `ready` must be true.
        """
        if not self._in_flight:
            self.quiet_since = now
        self._in_flight.extend(futures)
        self.sent += len(futures)
        assert self._transport is not None  # noqa: S101  (ready says so)
        self._transport.write(b"".join(commands))

    def close(self, reason: str) -> None:
        """End the connection; commands in flight fail. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.ready = True
        connected = transport.get_extra_info("socket")
        if connected is not None:
            tune(connected)
        self.write(self.greeted, self._greeting, self.connected_at)

    def data_received(self, data: bytes) -> None:
        self.quiet_since = self._now()
        self._reader.feed(data)
        gets, next_future = self._reader.gets, self._in_flight.popleft
        received = 0
        try:
            while (reply := gets()) is not False:
                future = next_future()
                received += 1
                if not future.done():
                    future.set_result(reply)
                elif not future.cancelled():
                    self.abandoned -= 1
        except hiredis.ProtocolError as exc:
            self.close(f"it sent what is no reply: {exc}")
        except IndexError:
            self.close("it sent a reply that nobody asked for")
        self.received += received

    def pause_writing(self) -> None:
        self.ready = False

    def resume_writing(self) -> None:
        self.ready = not self.lost.done()
        self._on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection was lost: {exc}" if exc else "Redis closed the connection")

    def _end(self, reason: str) -> None:
        self.ready = False
        if self.lost.done():
            return
        self.lost.set_result(None)
        while self._in_flight:
            self.received += 1
            future = self._in_flight.popleft()
            if not future.done():
                future.set_exception(GateUnavailable(f"no answer: {reason}", "unknown"))
        for future in self.greeted:
            # If the attempt was cancelled, nobody else looks at it, and asyncio would complain.
            if future.done() and not future.cancelled():
                future.exception()


async def open_pipe(endpoint: Endpoint, session: Session, on_writable: Callable[[], None]) -> Pipe:
    """Connect and introduce the connection. Raises OSError or GateUnavailable (executed "no"); set a timeout around it."""
    loop = asyncio.get_running_loop()

    def make() -> Pipe:
        return Pipe(loop, session.greeting(), on_writable)

    if endpoint.path is not None:
        _, pipe = await loop.create_unix_connection(make, endpoint.path)
    else:
        name = endpoint.host if session.tls else None
        _, pipe = await loop.create_connection(
            make, endpoint.host, endpoint.port, ssl=session.tls, server_hostname=name
        )
    try:
        session.check(await asyncio.gather(*pipe.greeted, return_exceptions=True))
    except BaseException as exc:
        pipe.close("the handshake failed")
        if isinstance(exc, GateUnavailable):
            raise GateUnavailable(str(exc), "no") from exc
        raise
    return pipe
