"""A TCP proxy that misbehaves on demand, for fault tests.

It runs an event loop in a thread of its own. What a direction is told applies to the next bytes of any connection, and
what has arrived can be waited for, so no test has to sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

WAIT_SECONDS = 20
_RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)


class Direction:
    """What happens to the bytes that go one way: `requests` to the server, `replies` to the client."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open = asyncio.Event()
        self._open.set()
        self._has_held = threading.Event()
        self._delay_seconds = 0.0
        self._fault: tuple[str, Any] = ("none", None)

    def delay(self, seconds: float) -> None:
        """Forward everything this much later."""
        self._delay_seconds = seconds

    def hold(self) -> None:
        """Forward nothing until `release`."""
        self._has_held.clear()
        self._loop.call_soon_threadsafe(self._open.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def wait_held(self) -> None:
        """Return when something has arrived that is held."""
        assert self._has_held.wait(WAIT_SECONDS)

    def drop_next(self) -> None:
        """Swallow what comes next, then reset its connection."""
        self._fault = ("drop", None)

    def cut_next(self, length: int) -> None:
        """Forward so many bytes of what comes next, then close its connection."""
        self._fault = ("cut", length)

    def replace_next(self, garbage: bytes) -> None:
        self._fault = ("replace", garbage)

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> str:
        """Forward until one side ends; whether the connection is to be closed or reset then."""
        while data := await source.read(1 << 16):
            await asyncio.sleep(self._delay_seconds)
            if not self._open.is_set():
                self._has_held.set()
                await self._open.wait()
            (fault, detail), self._fault = self._fault, ("none", None)
            if fault == "drop":
                return "reset"
            sink.write(detail if fault == "replace" else data[:detail] if fault == "cut" else data)
            await sink.drain()
            if fault == "cut":
                return "close"
        return "close"


class Proxy:
    """Listens on `port` of the loopback and forwards to `target_port` there. `accepted` counts connections."""

    def __init__(self, target_port: int) -> None:
        self.accepted = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests = Direction(self._loop)
        self.replies = Direction(self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """Reset all connections, now."""
        self._do(self._end_all())

    def close(self) -> None:
        self.requests.release()
        self.replies.release()
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def _do(self, work: Awaitable[Any]) -> Any:
        async def done() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(WAIT_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _end(writer, "reset")
            return
        self._writers.add(upstream)
        pumps = [
            asyncio.ensure_future(self.requests.pump(reader, upstream)),
            asyncio.ensure_future(self.replies.pump(upstream_reader, writer)),
        ]
        how = "reset"
        with contextlib.suppress(OSError, asyncio.CancelledError):
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            how = next(iter(done)).result()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in (writer, upstream):
            _end(end, how)
            self._writers.discard(end)

    async def _end_all(self) -> None:
        for writer in tuple(self._writers):
            _end(writer, "reset")

    async def _stop(self) -> None:
        self._server.close()
        await self._end_all()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def _end(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "close":
        writer.close()
        return
    connected = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_WHEN_CLOSED)
    writer.transport.abort()


@contextlib.contextmanager
def proxied(target_port: int) -> Iterator[Proxy]:
    proxy = Proxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
