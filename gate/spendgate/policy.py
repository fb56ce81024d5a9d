"""The effective policy: what is enforced for one customer, compiled and content-addressed.

It holds rules only, no balances and no overrides, so many customers share one policy, and a decision can cite
the digest of what was in force for as long as the decision itself is kept.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from spendgate.limits import Limit

ENGINE_VERSION: Final = 1
"""Version of the decision's semantics. A change of any outcome for the same inputs raises it."""


class ReservationTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long a reservation holds when it doesn't say, how long it may, how long after its deadline a commit is still
    taken, what becomes of it at the deadline, and what a commit above the reserved quantity does."""

    lifetime_us: int = 300_000_000
    max_lifetime_us: int = 3_600_000_000
    grace_us: int = 30_000_000
    at_deadline: Literal["release", "commit"] = "release"
    above: Literal["reject", "cap", "overage"] = "overage"


class EffectivePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Compiled rules of one plan with one set of contractual caps.

    `document` is the digest of the policy document it was compiled from; `meters` maps every known meter to its
    base unit; `models` are the allowed model patterns, None means any model; `deny_unknown` is set on the policy
    that stands in for customers nobody knows when the document says `unknown_customer: deny`; `max_staleness_us` is
    how old the mirror may be before only the outage allowance passes, None: any age.
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

    def encode(self) -> bytes:
        """MessagePack as the Redis script reads it. Equal policies encode to equal bytes."""
        return _encoder.encode(self)

    @property
    def digest(self) -> str:
        """First 128 bits of SHA-256 over the encoding, as 32 hex digits."""
        return digest_of(self.encode())


def digest_of(encoded: bytes) -> str:
    """Content address of an encoded policy: 32 hex digits."""
    return hashlib.sha256(encoded).hexdigest()[:32]


def decode_policy(encoded: bytes) -> EffectivePolicy:
    """Inverse of `EffectivePolicy.encode`. Raises msgspec.DecodeError on anything else."""
    return _decoder.decode(encoded)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(EffectivePolicy)
