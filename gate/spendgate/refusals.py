"""What the scripts refuse, and the error that a caller gets for it: one line a code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from spendgate.errors import (
    AboveReserved,
    BacklogFull,
    Conflict,
    InvalidEvent,
    NotPrepared,
    ReservationFinished,
    SpendgateError,
    TooLarge,
    TooManyReservations,
    UnknownMeter,
    UnknownReservation,
)
from spendgate.event import MAX_NUMBER, MAX_QUANTITY, UsageEvent

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def error_of(code: str, subject: str, event: UsageEvent | None, customer_id: str) -> SpendgateError:
    """The error for a script's `{'error', code, subject}`. `event` is what the call was about, if about one."""
    made = _OF_EVENT.get(code) if event is not None else None
    if made is not None and event is not None:
        return made(subject, event)
    if code in _OF_ANY:
        return _OF_ANY[code](subject, customer_id)
    return SpendgateError(f"{code}: {subject}")


def _field(event: UsageEvent) -> str:
    return "quantity" if len(event.quantities) == 1 else "quantities"


def _latest(subject: str) -> InvalidEvent:
    latest = _EPOCH + timedelta(microseconds=int(subject))
    return InvalidEvent("seconds", f"few enough to end by {latest.isoformat()}, as the plan says")


def _lifetime(subject: str) -> InvalidEvent:
    return InvalidEvent("lifetime_seconds", f"at most {int(subject) // 1_000_000}, as the plan says")


_OF_EVENT: Final[dict[str, Callable[[str, UsageEvent], SpendgateError]]] = {
    "conflict": lambda _, event: Conflict(event.customer_id, event.event_id),
    "unknown_meter": lambda meter, event: UnknownMeter(
        "meter" if list(event.quantities) == [meter] else f"quantities.{meter}", meter
    ),
    "invalid_quantity": lambda _, event: InvalidEvent(_field(event), f"a whole number from 1 to {MAX_QUANTITY}"),
    "counter_full": lambda limit_id, event: TooLarge("counter_full", limit_id, _field(event)),
    "cost_too_large": lambda limit_id, event: TooLarge("cost_too_large", limit_id, _field(event)),
    "metadata_not_a_number": lambda field, _: InvalidEvent(
        f"metadata.{field}", f"a whole number from 0 to {MAX_NUMBER}"
    ),
    "lifetime_too_long": lambda most_us, _: _lifetime(most_us),
    "extension_too_long": lambda latest_us, _: _latest(latest_us),
    "above_reserved": lambda meter, _: AboveReserved(meter),
    "reservation_finished": lambda how, _: ReservationFinished(how),
    "reservation_unknown": lambda _, __: UnknownReservation(
        "no such reservation is open, or it ended so long ago that how is forgotten"
    ),
}

_OF_ANY: Final[dict[str, Callable[[str, str], SpendgateError]]] = {
    "not_prepared": lambda _, __: NotPrepared("Redis holds no Spendgate installation: start the daemon once"),
    "no_policy": lambda _, customer_id: NotPrepared(
        f"no policy document is loaded for customer {customer_id!r}: start the daemon once"
    ),
    "backlog_full": lambda _, __: BacklogFull(),
    "reservations_full": lambda count, customer_id: TooManyReservations(
        f"customer {customer_id!r} has {count} open reservations; end some first"
    ),
}
