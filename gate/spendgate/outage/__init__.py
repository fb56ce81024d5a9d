"""What the gate does while Redis does not answer: it lets pass a small, bounded and recorded share by itself.

Each process holds one of N slots (`slot`). From what it last knew of a customer and from its share of each limit's outage
allowance it judges by itself (`share`), writes what it lets pass into a journal on disk before it answers (`journal`), and
settles that with Redis later (`settle`). `outage` joins them; the clients ask it when Redis fails them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from spendgate.calls import Policies
from spendgate.errors import GateUnavailable
from spendgate.outage.outage import CARETAKER_TIMEOUT_SECONDS, Outage, Status
from spendgate.transports import connect_sync

JOURNAL_SECONDS: Final = 0.025
"""How long a disk may take. Beyond, nobody can say whether the event will be settled, and nobody is told that it passes."""


def outage_of(url: str, journal: Path | str, policies: Policies) -> Outage:
    """Raises OSError where the journal can't be written, ValueError for a URL that can't be used."""
    return Outage(Path(journal), lambda: connect_sync(url, CARETAKER_TIMEOUT_SECONDS), policies)


async def on_disk(durable: Future[None]) -> None:
    """Raises GateUnavailable when the journal has not taken it in time."""
    try:
        async with asyncio.timeout(JOURNAL_SECONDS):
            await asyncio.shield(asyncio.wrap_future(durable))
    except TimeoutError:
        raise _too_slow() from None


def on_disk_sync(durable: Future[None]) -> None:
    """See `on_disk`."""
    try:
        durable.result(JOURNAL_SECONDS)
    except TimeoutError:
        raise _too_slow() from None


def _too_slow() -> GateUnavailable:
    return GateUnavailable("Redis does not answer, and the disk of the journal did not within its time", "unknown")


__all__ = ["Outage", "Status", "on_disk", "on_disk_sync", "outage_of"]
