"""What every limit kind says of one event: the lines of a decision's trace."""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["enforce", "shadow"]
Denial = Literal["stop", "throttle"]

MAX_COUNTER = 9 * 10**15
"""Counters, amounts and products stay at or below this: exact in a Lua number (2^53)."""


class LimitResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One limit, checked against one event.

    `used`, `external` and `reserved` are before the event, `amount` is what the event asks of this limit, in
    `unit` (`micro-credits` for credits); `limit` None means no ceiling (overage is billed) and so does
    `remaining` None; `remaining` is after the decision. `retry_after_us` 0 means that waiting does not help.
    `overage` is the part of the amount beyond an overage-billed cap. `match` is what an event must have for the limit
    to concern it; with `per` the numbers are those of `per_value` alone (None: no event was given, so of nobody).
    """

    id: str
    kind: str
    result: Literal["pass", "deny", "not_applicable"]
    unit: str
    mode: Mode = "enforce"
    when_exceeded: Denial = "stop"
    meters: tuple[str, ...] = ()
    period: str | None = None
    period_start_seconds: int | None = None
    period_end_seconds: int | None = None
    amount: int = 0
    used: int = 0
    reserved: int = 0
    external: int = 0
    limit: int | None = None
    cap: int | None = None
    floor: int = 0
    remaining: int | None = None
    overage: int = 0
    retry_after_us: int = 0
    field: str | None = None
    bypassed: bool = False
    match: dict[str, str] = {}
    per: str | None = None
    per_value: str | None = None

    @property
    def denies(self) -> bool:
        """An enforced limit that the event does not fit."""
        return self.result == "deny" and self.mode == "enforce"
