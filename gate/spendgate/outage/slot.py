"""The slot that a process holds: its right to let a share pass while Redis is away."""

from __future__ import annotations

from time import monotonic
from typing import Final

import msgspec

from spendgate.errors import NotPrepared
from spendgate.keys import SLOTS_KEY
from spendgate.script import HOLD_SLOT
from spendgate.transports import Argument, SyncTransport

HOLD_SECONDS: Final = 60
RENEW_SECONDS: Final = 15
LEFT_ALONE_SECONDS: Final = 600
"""A slot whose holder is silent for so long after its time may be taken over, for periods that begin later."""


class Slot(msgspec.Struct, frozen=True):
    """`index` 0: no slot was free. `until_us` is when the hold ends unless renewed; with `after_us` above 0 another
    process held it, perhaps does so still, and only periods that begin later are this one's. `now_us` is Redis' clock
    at `read_at` (of `time.monotonic`)."""

    index: int
    count: int
    until_us: int
    after_us: int
    now_us: int
    read_at: float

    def clock_us(self) -> int:
        """Redis' clock now, as far as this process can tell without asking."""
        return self.now_us + int((monotonic() - self.read_at) * 1_000_000)

    def covers(self, begins_at_us: int) -> bool:
        """Whether a share of a period that began then is this process' to give. A wallet's began at 0."""
        if self.after_us:
            return self.after_us < begins_at_us <= self.until_us
        return begins_at_us <= self.until_us


def hold_slot(transport: SyncTransport, journal: str) -> Slot:
    """Take a slot, or keep the one that the journal has. Raises GateUnavailable and NotPrepared."""
    arguments: list[Argument] = [journal, HOLD_SECONDS * 1_000_000, LEFT_ALONE_SECONDS * 1_000_000, ""]
    asked_at = monotonic()
    reply = transport.run(HOLD_SLOT, SLOTS_KEY, arguments)
    if reply[0] == b"error":
        raise NotPrepared("Redis holds no slots for outages: start the daemon once")
    index, count, until_us, after_us, now_us = map(int, reply)
    return Slot(index, count, until_us, after_us, now_us, asked_at)


def leave_slot(transport: SyncTransport, journal: str) -> None:
    """Give the slot to whoever comes next. Only for a journal whose share is whole."""
    transport.run(HOLD_SLOT, SLOTS_KEY, [journal, 0, 0, "1"])
