"""What a limit kind gets to see, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits.result import LimitResult

STALE_RETRY_US: Final = 60_000_000
"""How long to wait where only a new policy or a fresh mirror helps."""


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """Credits granted until `expires_at_us` (0: for good). Lower `priority` is burnt first, then the soonest to expire."""

    id: str
    micro_credits: int
    expires_at_us: int = 0
    priority: int = 0

    def lives_at(self, instant_us: int) -> bool:
        return self.expires_at_us == 0 or self.expires_at_us > instant_us


class Context(msgspec.Struct, frozen=True):
    """The moment of a decision. `now_us` is the Redis clock; `granted_micro_credits` None when the source knows none;
    `reserving`: amounts are held, not used; `stale_mirror_us` is the instant of a mirror that is too old, else 0."""

    now_us: int
    granted_micro_credits: int | None
    grants: tuple[Grant, ...] = ()
    reserving: bool = False
    stale_mirror_us: int = 0


class Check(msgspec.Struct, frozen=True):
    """`result` for the trace; `counter` is the counter's value if the event is debited, None when this limit keeps
    none or the event does not concern it; `crossed` names the thresholds that the debit would cross."""

    result: LimitResult
    counter: Any = None
    crossed: tuple[str, ...] = ()
    reason: str = ""


class Ending(msgspec.Struct, frozen=True):
    """A debit that is made later than it took effect: a reservation that ends, or what an outage let pass.

    `held` is what the counters hold for it (None: nothing), `committed` what is debited instead; its quantities are
    negative where a debit is taken back. `effective_at_us` names the periods."""

    held: UsageEvent | None
    committed: UsageEvent
    effective_at_us: int
    context: Context


class Exhaustion(msgspec.Struct, frozen=True):
    """A limit with no more than its floor left; `until_us` is when it resets, 0 when waiting does not help."""

    until_us: int


def amount_of(event: UsageEvent, meters: tuple[str, ...]) -> int:
    """Units of `event` in the given meters; 0 when the event does not touch them."""
    return sum(event.quantities.get(meter, 0) for meter in meters)


def applies(match: Mapping[str, str], event: UsageEvent) -> bool:
    """Whether all `match` fields are in the event's metadata and fit their patterns."""
    for field, pattern in match.items():
        text = text_of(event.metadata.get(field))
        if text is None or not matches(pattern, text):
            return False
    return True


def text_of(value: object) -> str | None:
    """A metadata value as patterns and counters of `per` see it, the same in Lua: 7 and 7.0 are one text. None stands
    for an absent value."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{float(value):.17g}" if isinstance(value, int | float) else str(value)


def matches(pattern: str, text: str) -> bool:
    """A pattern is literal text, or a prefix followed by one final `*`."""
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text == pattern
