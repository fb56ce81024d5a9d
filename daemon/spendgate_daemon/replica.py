"""This daemon as one of several: the partitions that are its to relay, and whether the scheduled jobs are its to run.

What it holds it may act on until shortly before the lease is over by its own clock, whatever the database does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from spendgate.keys import PARTITIONS
from spendgate_daemon.metrics import LEADS, PARTITIONS_HELD
from spendgate_daemon.store import Store

TTL_SECONDS: Final = 6.0
RENEW_SECONDS: Final = 1.0
MARGIN_SECONDS: Final = 1.0

Led = Callable[[Callable[[], Awaitable[int]]], Callable[[], Awaitable[int]]]
"""Makes work that only one replica does at a time."""

JOBS: Final = "jobs"
_PARTITIONS: Final = {f"partition.{partition:03d}": partition for partition in range(PARTITIONS)}

_log = structlog.get_logger("spendgate.replica")


class Replica:
    """`name` is that of its place, the process's number there and a random part."""

    def __init__(
        self, store: Store, *, name: str | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name or f"{_place()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._store = store
        self._monotonic = monotonic
        self._fences: dict[str, int] = {}
        self._until = 0.0

    async def renew_once(self) -> int:
        """Renew what is held, take and give up shares; how many leases are held."""
        asked = self._monotonic()
        names = [JOBS, *_PARTITIONS]
        fences = await asyncio.to_thread(
            self._store.leases.divide, self.name, names, int(TTL_SECONDS * 1_000_000), _is_dead
        )
        if fences.keys() != self._fences.keys():
            _log.info("leases", partitions=len(fences.keys() & _PARTITIONS.keys()), jobs=JOBS in fences)
        self._fences, self._until = fences, asked + TTL_SECONDS - MARGIN_SECONDS
        PARTITIONS_HELD.set(len(self.partitions()))
        LEADS.set(self.leads())
        return len(fences)

    async def leave(self) -> None:
        """Let others take over now."""
        self._fences = {}
        await asyncio.to_thread(self._store.leases.leave, self.name)

    def partitions(self) -> frozenset[int]:
        """Those that are this one's to relay now."""
        if self._monotonic() >= self._until:
            return frozenset()
        return frozenset(_PARTITIONS[name] for name in self._fences if name != JOBS)

    def leads(self) -> bool:
        """Whether the scheduled jobs are this one's to run now."""
        return JOBS in self._fences and self._monotonic() < self._until

    def led(self, work: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
        """The work while this replica leads, nothing otherwise."""

        async def run() -> int:
            return await work() if self.leads() else 0

        return run


def _place() -> str:
    """Where a number means one process: the host since it was started, and the PID namespace, as containers may have the
    host's name and numbers of their own. Short enough for the name of a lease."""
    host = socket.gethostname()
    told = [host]
    with contextlib.suppress(OSError):  # only Linux has them
        boot, namespace = Path("/proc/sys/kernel/random/boot_id").read_text(), Path("/proc/self/ns/pid").readlink()
        told += [boot.strip(), str(namespace)]
    return f"{host[:20]}.{hashlib.sha256(' '.join(told).encode()).hexdigest()[:16]}"


def _is_dead(holder: str) -> bool:
    """Whether the process is known to be gone: one of this place that was killed need not be waited for."""
    place, _, rest = holder.partition("/")
    process = rest.partition("/")[0]
    if place != _place() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
