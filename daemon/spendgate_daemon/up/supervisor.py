"""Keeps the children: starts them one by one, notices the first that ends, stops them all.

A part that ends by itself ends everything, because a stack without its daemon looks alive and enforces nothing new;
with `restart` it's started again instead, at most RESTARTS times in a row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from spendgate_daemon.up.child import Child, Part

READY_SECONDS: Final = 60.0
RESTARTS: Final = 10
STEADY_SECONDS: Final = 30.0
"""Who ran this long isn't restarting in a row any more."""

LAST_TO_STOP: Final = ("redis", "sandbox")
"""What others still write to in their end."""

Ready = Callable[[Child], Awaitable[None]]


class Supervisor:
    """`tell` gets one line about each restart."""

    def __init__(self, logs: Path, *, restart: bool, tell: Callable[[str], None]) -> None:
        self._logs = logs
        self._restart = restart
        self._tell = tell
        self._children: dict[str, tuple[Child, Ready]] = {}
        self._started: dict[str, float] = {}
        self._restarts: dict[str, int] = {}

    async def start(self, part: Part, ready: Ready | None = None) -> Child:
        """Start a part and wait until it's ready. Raises ChildFailed."""

        async def healthy(child: Child) -> None:
            await child.ready(READY_SECONDS)

        check = ready or healthy
        child = await self._spawn(part, check)
        await check(child)
        return child

    async def _spawn(self, part: Part, check: Ready) -> Child:
        child = await Child.start(part, self._logs)
        self._children[part.name] = (child, check)
        self._started[part.name] = time.monotonic()
        return child

    async def watch(self) -> None:
        """Return never; raises ChildFailed when a part ends and isn't to be restarted."""
        while True:
            waiting = {
                asyncio.create_task(child.process.wait()): (child, ready) for child, ready in self._children.values()
            }
            try:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
            for task in done:
                await self._ended(*waiting[task])

    async def _ended(self, child: Child, ready: Ready) -> None:
        failure = child.failure()
        name = child.part.name
        if time.monotonic() - self._started[name] > STEADY_SECONDS:
            self._restarts[name] = 0
        self._restarts[name] = self._restarts.get(name, 0) + 1
        if not self._restart or self._restarts[name] > RESTARTS:
            raise failure
        child.kill()  # whatever it left in its group
        self._tell(f"{str(failure).splitlines()[0]}; started again")
        # Not waited for: it may become ready only when another part is back that ends meanwhile.
        await self._spawn(child.part, ready)

    async def stop(self) -> None:
        """Stop all, and LAST_TO_STOP after the others."""
        children = {name: child for name, (child, _) in self._children.items()}
        last = [children.pop(name) for name in LAST_TO_STOP if name in children]
        await asyncio.gather(*(child.stop() for child in children.values()))
        await asyncio.gather(*(child.stop() for child in last))
        self._children.clear()

    def kill(self) -> None:
        """End all at once."""
        for child, _ in self._children.values():
            child.kill()
