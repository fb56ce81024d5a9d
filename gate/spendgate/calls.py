"""What a client says to the scripts and how it reads their answers; the same for asyncio and for threads."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from spendgate.decide import Mode, Outcome
from spendgate.decision import Decision, Status
from spendgate.errors import InvalidEvent, NotPrepared
from spendgate.event import MAX_QUANTITY, UsageEvent, check_id
from spendgate.keys import customer_tag, decision_id_of, partition_of
from spendgate.policy import EffectivePolicy, decode_policy
from spendgate.refusals import error_of
from spendgate.reservation import Action, Facts, OpenEntry, ReservationStatus
from spendgate.token import ReservationToken, token_of
from spendgate.transports import Argument

DEFAULT_TIMEOUT_SECONDS: Final = 1.0
"""Of a call, where there is no journal."""

DEADLINE_SECONDS: Final = 0.02
"""After so long without an answer it is an outage."""

RESERVATIONS_LISTED: Final = 100

MAX_LIFETIME_SECONDS: Final = 86_400
"""Of a reservation, whatever a plan says."""

_POLICIES_CACHED: Final = 4096

_STATUSES: Final[dict[bytes, Status]] = {name.encode(): name for name in get_args(Status)}
_OUTCOMES: Final[dict[int, Outcome]] = {1: "allow", 2: "throttle", 3: "stop"}
"""As decide.lua numbers them."""


class Policies:
    """Policies by digest. They are immutable, so nothing in here is ever stale."""

    def __init__(self) -> None:
        self._by_digest: dict[str, EffectivePolicy] = {}

    def get(self, digest: str) -> EffectivePolicy | None:
        return self._by_digest.get(digest)

    def add(self, digest: str, encoded: bytes | None) -> EffectivePolicy:
        """Raises NotPrepared when Redis had none."""
        if encoded is None:
            raise NotPrepared(f"Redis holds no policy {digest}")
        if len(self._by_digest) >= _POLICIES_CACHED:
            with contextlib.suppress(KeyError, RuntimeError):  # another thread was quicker
                self._by_digest.pop(next(iter(self._by_digest)))
        policy = self._by_digest[digest] = decode_policy(encoded)
        return policy


class Finished(msgspec.Struct, frozen=True):
    """How a reservation ended, or that it was extended (`open`). `committed` is what was debited for the `actual` use;
    `duplicate`: it had ended just so before, and nothing was done. Instants are Unix microseconds."""

    record_id: str
    status: ReservationStatus
    reason: str
    committed: dict[str, int]
    actual: dict[str, int]
    effective_at_us: int
    deadline_us: int
    duplicate: bool = False


class OpenReservation(msgspec.Struct, frozen=True):
    """A reservation that is open now. `ends_at_us` is its deadline and the grace for a late commit."""

    event: UsageEvent
    decision_id: str
    effective_at_us: int
    deadline_us: int
    ends_at_us: int


def decide_arguments(event: UsageEvent, mode: Mode, *, dry_run: bool, lifetime_us: int = 0) -> list[Argument]:
    return [
        customer_tag(event.customer_id),
        event.customer_id,
        event.encode(),
        mode,
        "1" if dry_run else "",
        event.identity(),
        event.fingerprint(reserved=mode == "reserve"),
        lifetime_us,
    ]


def finish_arguments(
    token: ReservationToken, action: Action, actual: Mapping[str, int], by_us: int = 0
) -> list[Argument]:
    return [
        customer_tag(token.customer_id),
        token.customer_id,
        action,
        token.event.encode(),
        token.stream_id,
        token.effective_at_us,
        token.event.identity(),
        msgspec.msgpack.encode(dict(actual)),
        by_us,
    ]


def settle_arguments(
    event: UsageEvent, effective_at_us: int, digest: str, journal: str, sequence: int
) -> list[Argument]:
    return [
        customer_tag(event.customer_id),
        event.customer_id,
        event.encode(),
        event.identity(),
        event.fingerprint(),
        effective_at_us,
        digest,
        journal,
        sequence,
    ]


def lifetime_us_of(lifetime_seconds: object, field: str = "lifetime_seconds") -> int:
    """0 for None, which is what the plan gives. Raises InvalidEvent naming `field`."""
    if lifetime_seconds is None:
        return 0
    if type(lifetime_seconds) is not int or not 1 <= lifetime_seconds <= MAX_LIFETIME_SECONDS:
        raise InvalidEvent(field, f"a whole number from 1 to {MAX_LIFETIME_SECONDS}")
    return lifetime_seconds * 1_000_000


def actual_of(token: ReservationToken, quantity: object, quantities: object) -> dict[str, int]:
    """What was really used: of the reservation's only meter, or by meter; 0 is allowed. Raises InvalidEvent."""
    if quantities is not None:
        if quantity is not None:
            raise InvalidEvent("quantities", "absent when quantity is given")
        if not isinstance(quantities, Mapping) or len(quantities) > 16:
            raise InvalidEvent("quantities", "an object of at most 16 meters")
        for meter in quantities:
            check_id("quantities", meter)
        given = {f"quantities.{meter}": (meter, value) for meter, value in quantities.items()}
    else:
        if len(token.quantities) != 1:
            raise InvalidEvent("quantities", f"an object; this reservation holds {', '.join(sorted(token.quantities))}")
        given = {"quantity": (next(iter(token.quantities)), quantity)}
    for field, (_, value) in given.items():
        if type(value) is not int or not 0 <= value <= MAX_QUANTITY:
            raise InvalidEvent(field, f"a whole number from 0 to {MAX_QUANTITY}")
    return dict(given.values())


def policy_key(customer_id: str, digest: str) -> str:
    return f"{customer_tag(customer_id)}policy:{digest}"


def digest_of(reply: Sequence[Any], event: UsageEvent | None, customer_id: str) -> str:
    """The policy that a script's answer is by, or the error that it names instead."""
    if reply[0] == b"error":
        raise error_of(reply[1].decode(), reply[2].decode(), event, customer_id)
    digest: str = reply[3].decode()
    return digest


def decision_of(reply: Sequence[Any], event: UsageEvent, policy: EffectivePolicy) -> Decision:
    """The answer to `event`; its record stays encoded until somebody asks for more than the outcome."""
    status, stream_id, outcome, _, encoded, *at = reply
    return Decision(
        _STATUSES[status],
        stream_id.decode(),
        encoded,
        policy,
        int(at[0]) if at else None,
        event=event,
        outcome=_OUTCOMES[outcome],
    )


def token_given(decision: Decision) -> ReservationToken:
    """What the id of a reservation says that Redis just gave."""
    return token_of(decision.event, decision.stream_id, decision.effective_at_us, decision.policy)


def signing_key_of(stored: bytes | None) -> bytes:
    """Raises NotPrepared where Redis has none."""
    if stored is None:
        raise NotPrepared("Redis holds no key to sign reservations with: start the daemon once")
    return stored


def finished_of(reply: Sequence[Any], token: ReservationToken) -> Finished:
    if reply[0] == b"error":
        raise error_of(reply[1].decode(), reply[2].decode(), token.event, token.customer_id)
    reason, facts = _finished_decoder.decode(reply[2])
    return Finished(
        record_id=decision_id_of(partition_of(token.customer_id), reply[1].decode()),
        status=facts.status,
        reason=reason,
        committed=dict(facts.committed),
        actual=dict(facts.actual),
        effective_at_us=facts.effective_at_us,
        deadline_us=facts.deadline_us,
        duplicate=reply[0] == b"duplicate",
    )


def reservations_of(reply: Sequence[Any], customer_id: str) -> tuple[list[OpenReservation], int]:
    """Open reservations, the first to end first, and how many there are in all."""
    if reply[0] == b"error":
        raise error_of(reply[1].decode(), reply[2].decode(), None, customer_id)
    found = []
    for raw, ends_at_us in zip(reply[2::2], reply[3::2], strict=True):
        entry = OpenEntry.decode(raw)
        found.append(
            OpenReservation(
                event=entry.event,
                decision_id=decision_id_of(partition_of(customer_id), entry.stream_id),
                effective_at_us=entry.effective_at_us,
                deadline_us=entry.deadline_us,
                ends_at_us=int(ends_at_us),
            )
        )
    return found, int(reply[1])


_finished_decoder = msgspec.msgpack.Decoder(tuple[str, Facts])
