"""Finds the master that Sentinels have agreed on, each time a connection is made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from spendgate.errors import GateUnavailable
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.multiplexed.node import Node
from spendgate.transports.sentinels import find_master, master_in


class SentinelLocator:
    """Asks all Sentinels at once and takes the first answer, so that one which hangs delays nobody."""

    def __init__(self, sentinels: Sequence[Node], service: str) -> None:
        self._sentinels = sentinels
        self._service = service
        self._command = find_master(service)

    async def __call__(self) -> Endpoint:
        """Raises GateUnavailable (executed "no") when no Sentinel names a master."""
        problems = []
        asked = [asyncio.ensure_future(self._ask(sentinel)) for sentinel in self._sentinels]
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except GateUnavailable as exc:
                    problems.append(str(exc))
        finally:
            for question in asked:
                question.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise GateUnavailable("; ".join(problems), "no")

    async def _ask(self, sentinel: Node) -> Endpoint:
        try:
            future, _ = sentinel.submit(self._command)
            return master_in(await future, self._service)
        except GateUnavailable as exc:
            raise GateUnavailable(f"Sentinel {sentinel.where}: {exc}", "no") from exc
