"""What is true of one customer now: policy state, overrides, and the standing the gate derives from them.

Three values with three writers: the mirror writes `PolicyState`, a person writes `Override`s, and only the
decision script writes `Standing` and counters. They are joined in the script, so no writer overwrites another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Self, get_args

import msgspec

from spendgate.limits.check import Grant
from spendgate.limits.layout import pack_integers, unpack_integers
from spendgate.limits.result import MAX_COUNTER

SOURCES: Final = ("customers.yaml", "catalog", "usagebox", "admin")
"""Of policy state, weakest first: what a stronger source says of a customer is not overwritten by a weaker one. Any other is
weaker than these."""

Status = Literal["active", "suspended", "cancelled", "unknown"]
CustomerState = Literal["ok", "throttled", "stopped", "suspended"]

STANDING_FIELD = "*"
"""Field of the counters hash that holds the standing; other fields are `<kind>:<limit id>`."""

THROTTLED_FOR_US = 10_000_000
"""A customer is `throttled` until this long has passed without a rate denial."""

_STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_STATES: Final[tuple[CustomerState, ...]] = get_args(CustomerState)


class PolicyState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written by the mirror. `policy` is the digest of the effective policy; `version` only grows, as long as `source` stays;
    `granted_micro_credits` is cumulative (all grants ever), None when the source knows no credits;
    `caps` are the contractual caps as the source states them (already compiled into the policy); `grants` are
    credits on top that expire, in the order in which they are burnt (see `burn_order`)."""

    policy: str
    plan: str
    status: Status
    version: int
    source: str
    updated_at_us: int
    granted_micro_credits: int | None = None
    caps: dict[str, int] = {}
    grants: tuple[Grant, ...] = ()

    @property
    def order(self) -> tuple[int, int, int]:
        """Of two states of a customer the one with the greater order is in force, whoever writes first."""
        return (strength(self.source), self.version, self.updated_at_us)

    def encode(self) -> bytes:
        """As it is stored: what the script always needs (`>c32BBI7` in Lua: policy, status, whether there are grants,
        credits granted + 1 or 0), and the whole in MessagePack."""
        granted = 0 if self.granted_micro_credits is None else self.granted_micro_credits + 1
        head = pack_integers((1, 1, 7), (_STATUSES.index(self.status), bool(self.grants), granted))
        return self.policy.encode().ljust(32)[:32] + head + _encoder.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> PolicyState:
        """Inverse of `encode`. Raises msgspec.DecodeError."""
        return _state_decoder.decode(raw[_HEAD_BYTES:])


def strength(source: str) -> int:
    """Place of a source of policy state among SOURCES, from 1; 0 for any other."""
    return SOURCES.index(source) + 1 if source in SOURCES else 0


_HEAD_BYTES: Final = 32 + 1 + 1 + 7


def burn_order(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Lower priority first, then the soonest to expire; those that never do come last."""
    return tuple(sorted(grants, key=lambda g: (g.priority, g.expires_at_us or MAX_COUNTER, g.id)))


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

    def encode(self) -> bytes:
        """As it is stored."""
        return _encoder.encode(self)


Denials = tuple[str, int, int, str, str]


class Standing(msgspec.Struct, frozen=True):
    """The customer's enforcement as of the last write. `next_change_at_us` is when it would change by itself (0:
    never); `version` grows with each change that flags must show; `reservations_end_us` is when the first open
    reservation is ended (0: none is open); `override_units` counts, per override id, the units it let through;
    `denials` counts, per rule, the denials of one second: (rule, second, count, stream id of the last one kept, outcome).
    """

    state: CustomerState = "ok"
    throttled_until_us: int = 0
    next_change_at_us: int = 0
    version: int = 0
    reservations_end_us: int = 0
    override_units: tuple[tuple[str, int], ...] = ()
    denials: tuple[Denials, ...] = ()

    def units_let_through(self, override_id: str) -> int:
        return next((units for name, units in self.override_units if name == override_id), 0)

    @property
    def due_at_us(self) -> int:
        """When the sweep has to come by: the state changes, a reservation ends, or denials that were only counted can
        be told. 0: never."""
        told = [(second + 1) * 1_000_000 for _, second, count, _, _ in self.denials if count > DENIALS_KEPT]
        return min((at for at in (self.next_change_at_us, self.reservations_end_us, *told) if at), default=0)

    def encode(self) -> bytes:
        """As it is stored (`>BI7I7I6I7` in Lua, then `override_units` and `denials` in MessagePack where there are
        any)."""
        numbers = (
            _STATES.index(self.state),
            self.throttled_until_us,
            self.next_change_at_us,
            self.version,
            self.reservations_end_us,
        )
        more = _encoder.encode((self.override_units, self.denials)) if self.override_units or self.denials else b""
        return pack_integers(_STANDING_WIDTHS, numbers) + more

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`. Raises ValueError."""
        (state, throttled_us, change_us, version, ends_us), more = unpack_integers(_STANDING_WIDTHS, raw)
        override_units, denials = _standing_decoder.decode(more) if more else ((), ())
        return cls(_STATES[state], throttled_us, change_us, version, ends_us, override_units, denials)


DENIALS_KEPT: Final = 10
"""Denials of one rule in one second that are kept each; those beyond are counted."""

_STANDING_WIDTHS: Final = (1, 7, 7, 6, 7)

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_state_decoder = msgspec.msgpack.Decoder(PolicyState)
_standing_decoder = msgspec.msgpack.Decoder(tuple[tuple[tuple[str, int], ...], tuple[Denials, ...]])
