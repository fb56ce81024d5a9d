"""Everything the gate raises.

One root, `SpendgateError`, so that an application can catch the gate's errors without catching its own.
A denial is not an error: it is a `Decision`.
"""

from __future__ import annotations

from typing import Literal

Executed = Literal["no", "unknown"]


class SpendgateError(Exception):
    """Root of all errors of this package."""


class InvalidEvent(SpendgateError):
    """The event can't be decided; nothing was written.

    `field` is the path of the offending field in the event as the caller wrote it (`quantities.tokens.input`,
    `metadata.model`); `expected` completes the sentence "<field> must be ...".
    """

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field} must be {expected}")
        self.field = field
        self.expected = expected


class UnknownMeter(InvalidEvent):
    """The policy document declares no such meter."""

    def __init__(self, field: str, meter: str) -> None:
        super().__init__(field, f"a meter of the policy document; {meter!r} is none")
        self.meter = meter


class TooLarge(InvalidEvent):
    """The quantity would take a limit's numbers out of the range in which they are exact. `code` is the script's word."""

    def __init__(self, code: str, limit_id: str, field: str = "quantity") -> None:
        most = (
            "small enough to cost at most"
            if code == "cost_too_large"
            else f"small enough to keep limit {limit_id!r} below"
        )
        unit = " micro-credits" if code == "cost_too_large" else ""
        super().__init__(field, f"{most} {9 * 10**15}{unit}")
        self.code = code
        self.limit_id = limit_id


class Conflict(SpendgateError):
    """The same `event_id` was allowed before with other content; nothing was done."""

    def __init__(self, customer_id: str, event_id: str) -> None:
        super().__init__(
            f"event_id {event_id!r} of customer {customer_id!r} was already allowed with other meters, "
            "quantities or metadata; nothing was done"
        )
        self.customer_id = customer_id
        self.event_id = event_id


class AboveReserved(InvalidEvent):
    """A commit of more than was reserved, which the plan rejects. The reservation is still open."""

    def __init__(self, meter: str) -> None:
        super().__init__(f"quantities.{meter}", "at most what was reserved, as the plan says")
        self.meter = meter


class ReservationFinished(SpendgateError):
    """The reservation has ended otherwise; nothing was done. `ended` tells how: `committed`, `released`, `expired`."""

    def __init__(self, ended: str) -> None:
        super().__init__(
            f"the reservation has ended already ({ended}); if more was used than was counted, record it as usage"
        )
        self.ended = ended


class UnknownReservation(SpendgateError):
    """No such reservation: the id is none of this installation, belongs to another customer, or it ended so long ago
    that how is forgotten."""


class TooManyReservations(SpendgateError):
    """The customer has more open reservations than are kept; nothing was reserved."""


class NotPrepared(SpendgateError):
    """Redis holds no Spendgate installation, or no policy document was loaded yet."""


class UnknownEngine(SpendgateError):
    """A record was made by an engine that this version of the library does not have; `known` are those it has."""

    def __init__(self, version: int, known: tuple[int, ...]) -> None:
        versions = ", ".join(map(str, known))
        super().__init__(f"it was made by engine {version}, and this version of Spendgate knows only engine {versions}")
        self.version = version
        self.known = known


class WrongPolicy(SpendgateError):
    """A policy, state or override could not be written: what is there is newer, or the input is malformed."""


class GateUnavailable(SpendgateError):
    """Redis did not take the event, or did not answer within the deadline.

    `executed` is "no" when it is certain that nothing was written: Redis could not be reached, or refused. It is
    "unknown" when the command was sent and no answer came: retry with the same `event_id`, which is debited once.
    """

    def __init__(self, message: str, executed: Executed = "unknown") -> None:
        super().__init__(message)
        self.executed: Executed = executed


class BacklogFull(GateUnavailable):
    """The store lacks too many entries of the customer's partition, or Redis lost some that the store has: nothing is
    decided there; nothing was written."""

    def __init__(self) -> None:
        super().__init__(
            "Redis and the store are too far apart: nothing is decided until the daemon has mended it", "no"
        )


class ScriptFailed(SpendgateError):
    """Redis ran into an error while it executed a command: a bug, or a key that holds another type.

    An error in Lua rolls nothing back, so what was written before it stands: whether the event was debited is unknown.
    """
