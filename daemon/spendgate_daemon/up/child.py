"""One child process: its own group, its own log file, tethered to us, stopped politely and then not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec

from spendgate_daemon.up import tether_path

POLITE_SECONDS: Final = 6.0
TAIL_LINES: Final = 12
HEALTH_INTERVAL_SECONDS: Final = 0.05


class Part(msgspec.Struct, frozen=True):
    """What to run. `health_url` answers 200 when it's ready; None: ready as soon as it runs. `death_signal` is what it
    gets when we are killed."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    health_url: str | None = None
    death_signal: int = signal.SIGKILL


class ChildFailed(Exception):
    """A child ended by itself or never became ready; the message has its last lines."""

    def __init__(self, name: str, what: str, tail: str, log: Path) -> None:
        shown = f"\n\nIts last lines ({log}):\n{tail}" if tail else f"\n\nIt wrote nothing to {log}."
        super().__init__(f"{name} {what}{shown}")
        self.name = name


class Child:
    """Made by `start`; `part` says what it is."""

    def __init__(self, part: Part, process: asyncio.subprocess.Process, log: Path) -> None:
        self.part = part
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, part: Part, logs: Path) -> Child:
        """Run the part; its output goes to `logs`/NAME.log, the run before it to NAME.log.1."""
        log = logs / f"{part.name}.log"
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
        tether = (sys.executable, "-I", "-S", str(tether_path()), str(os.getpid()), str(int(part.death_signal)))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *tether,
                *part.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(part.environment),
                start_new_session=True,
            )
        return cls(part, process, log)

    async def ready(self, seconds: float) -> None:
        """Wait until it is healthy. Raises ChildFailed when it ends before, or isn't healthy in time."""
        url, deadline = self.part.health_url, time.monotonic() + seconds
        if url is None:
            return
        async with httpx.AsyncClient(timeout=2) as http:
            while True:
                if self.process.returncode is not None:
                    raise self.failure()
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(url)).is_success:
                        return
                if time.monotonic() > deadline:
                    raise ChildFailed(self.part.name, f"was not ready within {seconds:.0f} s", self.tail(), self.log)
                await asyncio.sleep(HEALTH_INTERVAL_SECONDS)

    def failure(self) -> ChildFailed:
        """The error for a child that ended by itself."""
        code = self.process.returncode or 0
        what = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return ChildFailed(self.part.name, what, self.tail(), self.log)

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            with self.log.open(encoding="utf-8", errors="replace") as file:
                return "".join(deque(file, maxlen=TAIL_LINES)).rstrip()
        except OSError:
            return ""

    async def stop(self) -> None:
        """SIGTERM to its group, SIGKILL when that wasn't enough in time. Idempotent."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(POLITE_SECONDS):
                await self.process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        await self.process.wait()

    def kill(self) -> None:
        """End its whole group at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # The group outlives its leader while a grandchild runs, so a leader that has ended is no reason to stop here.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)
