"""The effective policy: what is enforced for one customer, compiled and content-addressed.

It holds rules only, no balances and no overrides, so many customers share one policy, and a decision can cite
the digest of what was in force for as long as the decision itself is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from spendgate.limits import Limit, counter_field, rule_of
from spendgate.state import STANDING_FIELD

ENGINE_VERSION: Final = 1
"""Version of the decision's semantics. A change of any outcome for the same inputs raises it: see engines.py."""


class ReservationTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reservation lives `lifetime_us` unless it asks for another, extended to at most `max_lifetime_us` after it
    began, and is ended `grace_us` after its deadline: released, or committed as reserved. A commit `above` what was
    reserved is rejected, capped to the reservation, or debited whole even if it goes over."""

    lifetime_us: int = 300_000_000
    max_lifetime_us: int = 3_600_000_000
    grace_us: int = 30_000_000
    at_deadline: Literal["release", "commit"] = "release"
    above: Literal["reject", "cap", "overage"] = "overage"

    def rule(self) -> list[int | str]:
        """What the script reads: see `terms_of` in reservations.lua."""
        return [self.lifetime_us, self.max_lifetime_us, self.grace_us, self.at_deadline, self.above]


class EffectivePolicy(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """Compiled rules of one plan with one set of contractual caps.

    `document` is the digest of the policy document it was compiled from; `meters` maps every known meter to its
    base unit; `models` are the allowed model patterns, None means any model; `deny_unknown` is set on the policy
    that stands in for customers nobody knows when the document says `unknown_customer: deny`. A mirror older than
    `max_staleness_us` lets no more pass than each limit's outage allowance; None: its age does not matter.
    `timezone` is the customer's, for answers to people.
    """

    document: str
    plan: str
    meters: dict[str, str]
    limits: tuple[Limit, ...]
    models: tuple[str, ...] | None = None
    deny_unknown: bool = False
    timezone: str = "UTC"
    reservations: ReservationTerms = ReservationTerms()
    max_staleness_us: int | None = None

    def finds_too_old(self, mirrored_at_us: int, now_us: int) -> bool:
        """Whether a mirror of then is too old now; without one (0) nothing is."""
        most_us = self.max_staleness_us
        return most_us is not None and mirrored_at_us > 0 and now_us - mirrored_at_us > most_us

    def encode(self) -> bytes:
        """MessagePack. Equal policies encode to equal bytes."""
        return _encoder.encode(self)

    @cached_property
    def digest(self) -> str:
        """First 128 bits of SHA-256 over the encoding, as 32 hex digits."""
        return hashlib.sha256(self.encode()).hexdigest()[:32]

    def rules(self) -> bytes:
        """What the script reads: the policy without what is only for people, by position instead of by name, and its
        lists packed each on its own (see customer.lua), because unpacking it is a good part of what a decision costs."""
        return _in_a_row(
            [
                self.deny_unknown,
                "\n" + "".join(f"{meter}\n" for meter in self.meters),
                list(self.models) if self.models is not None else False,
                self.max_staleness_us or 0,
                _in_a_row(self.reservations.rule()),
                _in_a_row([*map(counter_field, self.limits), STANDING_FIELD]),
                *(_in_a_row(rule_of(limit)) for limit in self.limits),
            ]
        )


def _in_a_row(values: Sequence[Any]) -> bytes:
    """MessagePack values without an array around them. Bytes become text (`str 32`), the only string that Lua's cmsgpack
    reads in every Redis."""
    return b"".join(
        b"\xdb" + len(value).to_bytes(4, "big") + value if isinstance(value, bytes) else _encoder.encode(value)
        for value in values
    )


def decode_policy(encoded: bytes) -> EffectivePolicy:
    """Inverse of `EffectivePolicy.encode`. Raises msgspec.DecodeError on anything else."""
    return _decoder.decode(encoded)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(EffectivePolicy)
