"""What is true of one customer now: policy state, overrides, and the standing the gate derives from them.

Three values with three writers: the mirror writes `PolicyState`, a person writes `Override`s, and only the
decision script writes `Standing` and counters. They are joined in the script, so no writer overwrites another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from spendgate.limits.check import Grant

Status = Literal["active", "suspended", "cancelled", "unknown"]
CustomerState = Literal["ok", "throttled", "stopped", "suspended"]

STANDING_FIELD = "*"
"""Field of the counters hash that holds the standing; other fields are `<kind>:<limit id>`."""

THROTTLED_FOR_US = 10_000_000
"""A customer is `throttled` until this long has passed without a rate denial."""


_NEVER_US: Final = 2**62


def burn_order(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Which grant is used up first: the lowest priority, then what ends soonest, then by id."""
    return tuple(sorted(grants, key=lambda grant: (grant.priority, grant.expires_at_us or _NEVER_US, grant.id)))


class PolicyState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written by the mirror. `policy` is the digest of the effective policy; `version` only grows;
    `granted_micro_credits` is cumulative (all grants ever), None when the source knows no credits;
    `caps` are the contractual caps as the source states them (already compiled into the policy); `grants` are credits
    on top of the cumulative ones, in `burn_order`."""

    policy: str
    plan: str
    status: Status
    version: int
    source: str
    updated_at_us: int
    granted_micro_credits: int | None = None
    caps: dict[str, int] = {}
    grants: tuple[Grant, ...] = ()


class Override(msgspec.Struct, frozen=True, omit_defaults=True):
    """A manual toggle as the script sees it; who and why is in the store.

    `let_pass` bypasses the limits named in `bypass` (`*` is all of them) for at most `max_units` units, summed
    over all meters of the events it let through; `stop` denies everything. Void from `until_us` on.
    """

    id: str
    kind: Literal["let_pass", "stop"]
    until_us: int
    max_units: int = 0
    bypass: tuple[str, ...] = ("*",)


class OverrideSet(msgspec.Struct, frozen=True, array_like=True):
    """All overrides of one customer, as stored; `version` only grows."""

    version: int
    overrides: tuple[Override, ...]


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """The customer's enforcement as of the last write. `next_change_at_us` is when it would change by itself (0:
    never); `version` grows with each change that flags must show; `override_units` counts, per override id, the
    units it let through; `denials` counts, per rule, the denials of one second: (rule, second, count, stream id of the
    last one kept, outcome)."""

    state: CustomerState = "ok"
    throttled_until_us: int = 0
    next_change_at_us: int = 0
    version: int = 0
    override_units: tuple[tuple[str, int], ...] = ()
    denials: tuple[tuple[str, int, int, str, str], ...] = ()

    def units_let_through(self, override_id: str) -> int:
        return next((units for name, units in self.override_units if name == override_id), 0)
