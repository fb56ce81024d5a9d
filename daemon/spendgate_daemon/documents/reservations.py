"""A plan's terms of reservations, with the durations that it leaves out."""

from __future__ import annotations

from spendgate.policy import ReservationTerms
from spendgate_daemon.documents.document import Reservations
from spendgate_daemon.documents.notation import parse_duration_seconds

_US = 1_000_000
_USUAL = ReservationTerms()


def reservation_terms(rules: Reservations) -> ReservationTerms:
    """The terms of checked rules. A duration that is left out is the usual one, or gives way to the one that is stated:
    `max_lifetime: 1m` alone makes the lifetime a minute, `lifetime: 2h` alone the longest two hours."""
    lifetime, longest, grace = (_duration_us(text) for text in (rules.lifetime, rules.max_lifetime, rules.grace))
    if longest is None:
        longest = max(_USUAL.max_lifetime_us, lifetime or 0, grace or 0)
    return ReservationTerms(
        lifetime_us=min(_USUAL.lifetime_us, longest) if lifetime is None else lifetime,
        max_lifetime_us=longest,
        grace_us=min(_USUAL.grace_us, longest) if grace is None else grace,
        at_deadline=rules.at_deadline,
        above=rules.above,
    )


def _duration_us(text: str | None) -> int | None:
    seconds = parse_duration_seconds(text) if text is not None else None
    return seconds * _US if seconds is not None else None
