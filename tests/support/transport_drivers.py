"""One way to use every transport, so that one suite of tests can be run against all of them.

A driver blocks. The asyncio one owns an event loop in a thread; the other one has a pool of threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from spendgate.script import Script
from spendgate.transports import Argument, connect, connect_sync

PATIENCE_SECONDS = 60
"""When a test gives up on an answer; far above every timeout that is tested."""
THREADS = 50

Call = tuple[Script, str, list[Argument]]


class Driver(Protocol):
    def start(self, script: Script, key: str, arguments: list[Argument]) -> Future[Any]:
        """A call under way."""

    def run(self, script: Script, key: str = "k", arguments: Iterable[Argument] = ()) -> Any: ...

    def get(self, key: str) -> bytes | None: ...

    def gather(self, calls: list[Call]) -> list[Any]:
        """All at once; replies or errors, in order."""

    def close(self) -> None:
        """Close the transport. Calls may be made afterwards."""

    def end(self) -> None:
        """Close everything."""


class AsyncioDriver:
    def __init__(
        self,
        url: str,
        timeout_seconds: float,
        new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self.transport = connect(url, timeout_seconds)
        self._runner = asyncio.Runner(loop_factory=new_event_loop)
        self.loop = self._runner.get_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._runner.run, args=(self._live(),))
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.submit(work).result(PATIENCE_SECONDS)

    def start(self, script: Script, key: str, arguments: list[Argument]) -> Future[Any]:
        return self.submit(self.transport.run(script, key, arguments))

    def run(self, script: Script, key: str = "k", arguments: Iterable[Argument] = ()) -> Any:
        return self.do(self.transport.run(script, key, list(arguments)))

    def get(self, key: str) -> bytes | None:
        return self.do(self.transport.get(key))

    def gather(self, calls: list[Call]) -> list[Any]:
        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(self.transport.run(*call) for call in calls), return_exceptions=True)

        return self.do(all_of_them())

    def close(self) -> None:
        self.do(self.transport.aclose())

    def end(self) -> None:
        self.close()
        self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE_SECONDS)
        self._runner.close()

    async def _live(self) -> None:
        await self._ended.wait()


class ThreadsDriver:
    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.transport = connect_sync(url, timeout_seconds)
        self._threads = ThreadPoolExecutor(THREADS)

    def start(self, script: Script, key: str, arguments: list[Argument]) -> Future[Any]:
        return self._threads.submit(self.transport.run, script, key, arguments)

    def run(self, script: Script, key: str = "k", arguments: Iterable[Argument] = ()) -> Any:
        return self.transport.run(script, key, list(arguments))

    def get(self, key: str) -> bytes | None:
        return self.transport.get(key)

    def gather(self, calls: list[Call]) -> list[Any]:
        futures = [self.start(*call) for call in calls]
        return [future.exception(PATIENCE_SECONDS) or future.result() for future in futures]

    def close(self) -> None:
        self.transport.close()

    def end(self) -> None:
        self.close()
        self._threads.shutdown()
