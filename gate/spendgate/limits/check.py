"""What a limit kind gets to see, and what it gives back."""

from __future__ import annotations

from typing import Any

import msgspec

from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent
from spendgate.limits.result import MAX_COUNTER, LimitResult


class Context(msgspec.Struct, frozen=True):
    """The moment of a decision: Redis clock, and credits granted so far (None when the source knows none)."""

    now_us: int
    granted_micro_credits: int | None


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """Credits that end: `micro_credits` in all until `expires_at_us` (0: never), burned in the order of `priority`."""

    id: str
    micro_credits: int
    expires_at_us: int = 0
    priority: int = 0


class Check(msgspec.Struct, frozen=True):
    """`result` for the trace; `counter` is the counter's value if the event is debited, None when this limit keeps
    none or the event does not concern it; `crossed` names the thresholds that the debit would cross."""

    result: LimitResult
    counter: Any = None
    crossed: tuple[str, ...] = ()
    reason: str = ""


class Exhaustion(msgspec.Struct, frozen=True):
    """A limit with no more than its floor left; `until_us` is when it resets, 0 when waiting does not help."""

    until_us: int


def amount_of(event: UsageEvent, meters: tuple[str, ...]) -> int:
    """Units of `event` in the given meters; 0 when the event does not touch them."""
    return sum(event.quantities.get(meter, 0) for meter in meters)


def checked_sum(counter: int, amount: int, limit_id: str) -> int:
    """Sum of both, or InvalidEvent when it would leave the range that Lua computes exactly."""
    if counter + amount > MAX_COUNTER:
        raise InvalidEvent("quantity", f"small enough to keep limit {limit_id!r} below {MAX_COUNTER}")
    return counter + amount


def matches(pattern: str, text: str) -> bool:
    """A pattern is literal text, or a prefix followed by one final `*`."""
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text == pattern
