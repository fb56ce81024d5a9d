"""Finds the master that Sentinels have agreed on, each time a thread connects."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from spendgate.errors import GateUnavailable
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.sentinels import find_master, master_in
from spendgate.transports.threaded.node import ThreadedNode


class ThreadedSentinelLocator:
    """Asks one Sentinel after the other; the one that has answered is asked first the next time.

    One that hangs costs the whole deadline of the call that meets it, and goes to the end: the next call asks another.
    """

    def __init__(self, sentinels: Sequence[ThreadedNode], service: str) -> None:
        self._sentinels = tuple(sentinels)
        self._service = service
        self._command = find_master(service)

    def __call__(self, deadline: float) -> Endpoint:
        """Raises GateUnavailable (executed "no") when no Sentinel names a master."""
        problems: list[str] = []
        for sentinel in self._sentinels:
            if problems and monotonic() >= deadline:
                break
            try:
                master = master_in(sentinel.ask(self._command, deadline), self._service)
            except GateUnavailable as exc:
                problems.append(f"Sentinel {sentinel.where}: {exc}")
                self._sentinels = (*(other for other in self._sentinels if other is not sentinel), sentinel)
            else:
                return master
        raise GateUnavailable("; ".join(problems), "no")
