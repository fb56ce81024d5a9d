"""Finds the master that Sentinels have agreed on, each time a connection is made."""

from __future__ import annotations

from collections.abc import Sequence

from spendgate.errors import GateUnavailable
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.multiplexed.node import Node
from spendgate.transports.sentinels import find_master, master_in


class SentinelLocator:
    """Asks one Sentinel after the other; the one that has answered is asked first the next time."""

    def __init__(self, sentinels: Sequence[Node], service: str) -> None:
        self._sentinels = list(sentinels)
        self._service = service
        self._command = find_master(service)

    async def __call__(self) -> Endpoint:
        """Raises GateUnavailable (executed "no") when no Sentinel names a master."""
        problems = []
        for sentinel in tuple(self._sentinels):
            try:
                future, _ = sentinel.submit(self._command)
                master = master_in(await future, self._service)
            except GateUnavailable as exc:
                problems.append(f"Sentinel {sentinel.where}: {exc}")
            else:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return master
        raise GateUnavailable("; ".join(problems), "no")
