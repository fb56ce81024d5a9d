"""`concurrency`: reservations open at once. An event that reserves nothing is not concerned."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits.check import Check, Context, Ending, Exhaustion, amount_of
from spendgate.limits.layout import pack_integers, unpack_integers
from spendgate.limits.result import Denial, LimitResult, Mode

RETRY_US: Final = 1_000_000
"""When to try again: nobody knows when the next run ends, and asking each second costs little."""


_WIDTHS: Final = (5,)
"""`>I5` in Lua."""


class OpenCounter(msgspec.Struct, frozen=True):
    """How many reservations are open."""

    open: int = 0

    @property
    def reserved(self) -> int:
        """As the other counters call it."""
        return self.open

    def encode(self) -> bytes:
        """As it is stored."""
        return pack_integers(_WIDTHS, (self.open,))

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`. Raises ValueError."""
        return cls(*unpack_integers(_WIDTHS, raw)[0])


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="concurrency"):
    """At most `max` open reservations that touch one of `meters`."""

    Counter: ClassVar = OpenCounter

    id: str
    meters: tuple[str, ...]
    max: int
    unit: str = "run"
    when_exceeded: Denial = "throttle"
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    per: str | None = None
    max_values: int = 0

    def rule(self) -> list[Any]:
        """The kind's own part of what the script reads: see concurrency.lua."""
        return [self.max]

    def alone(self, slots: int) -> Concurrency:
        """See `Quota.alone`."""
        return msgspec.structs.replace(self, max=self.max // slots)

    def check(self, event: UsageEvent, counter: OpenCounter | None, context: Context) -> Check:
        """`counter` None: nothing is open."""
        count = counter.open if counter is not None else 0
        concerned = context.reserving and amount_of(event, self.meters) > 0
        line = LimitResult(
            id=self.id,
            kind="concurrency",
            result="not_applicable",
            unit=self.unit,
            mode=self.mode,
            when_exceeded=self.when_exceeded,
            meters=self.meters,
            amount=int(concerned),
            reserved=count,
            limit=self.max,
            remaining=max(0, self.max - count),
        )
        if not concerned:
            return Check(line)
        if count < self.max:
            return Check(msgspec.structs.replace(line, result="pass"), OpenCounter(count + 1))
        retry_after_us = RETRY_US if self.when_exceeded == "throttle" else 0
        denied = msgspec.structs.replace(line, result="deny", retry_after_us=retry_after_us)
        return Check(denied, OpenCounter(count + 1), reason="too_many_open")

    def finish(self, counter: OpenCounter | None, ending: Ending) -> tuple[OpenCounter | None, tuple[str, ...]]:
        """One fewer, when the reservation was counted here."""
        if ending.held is None or not amount_of(ending.held, self.meters):
            return counter, ()
        return OpenCounter(max(0, counter.open - 1 if counter is not None else 0)), ()

    def keeps(self, counter: OpenCounter | None, at_us: int) -> bool:  # noqa: ARG002
        """Never: it counts nothing that was used."""
        return False

    def held(self, event: UsageEvent) -> int:
        """A place."""
        return int(amount_of(event, self.meters) > 0)

    def exhaustion(self, counter: OpenCounter | None, context: Context) -> Exhaustion | None:  # noqa: ARG002
        """Never: a place is free again when a run ends."""
        return None

    def changes_at_us(self, context: Context) -> int:  # noqa: ARG002
        return 0
