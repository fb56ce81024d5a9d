"""Problem details (RFC 9457): every error of the API has this one shape."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from spendgate.errors import (
    AboveReserved,
    Conflict,
    GateUnavailable,
    InvalidEvent,
    NotPrepared,
    ReservationFinished,
    SpendgateError,
    TooManyReservations,
    UnknownMeter,
    UnknownReservation,
)

TYPE_BASE: Final = "https://spendgate.dev/problems/"
CONTENT_TYPE: Final = "application/problem+json"
MAX_SHOWN: Final = 1000
RETRY_SOON: Final = {"retry-after": "1"}


class Problem(Exception):
    """`slug` names the kind; `field` is the path of the input at fault and `expected` what it must be; `more` are further
    members for callers who act on this kind (RFC 9457, 3.2)."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.title = title
        self.detail = _printable(detail)
        self.field = _printable(field) if field is not None else None
        self.expected = _printable(expected) if expected is not None else None
        self.headers = headers or {}
        self.more = more or {}

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": TYPE_BASE + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field is not None:
            body["field"] = self.field
        if self.expected is not None:
            body["expected"] = self.expected
        return body | self.more

    def encode(self) -> bytes:
        return msgspec.json.encode(self.as_json())


def invalid(field: str, expected: str) -> Problem:
    """The input is understood and wrong: 422, naming the field."""
    return Problem(
        422, "invalid-input", "The input is not valid", f"{field} must be {expected}", field=field, expected=expected
    )


def malformed(detail: str) -> Problem:
    """The body is not what it says it is: 400."""
    return Problem(400, "malformed", "The body is not valid JSON", detail)


def unauthorized(detail: str) -> Problem:
    headers = {"www-authenticate": 'Bearer realm="spendgate"'}
    return Problem(401, "unauthorized", "A valid API key is needed", detail, headers=headers)


def forbidden(detail: str) -> Problem:
    return Problem(403, "forbidden", "This key may not do that", detail)


def not_found(what: str) -> Problem:
    return Problem(404, "not-found", "Not found", what)


def unknown_reservation() -> Problem:
    """The same words for every reason: whether an id is somebody else's is nobody's business."""
    detail = "no such reservation: it is none of this installation's, or it ended so long ago that how is forgotten"
    return Problem(404, "unknown-reservation", "There is no such reservation", detail)


def too_large(limit_bytes: int) -> Problem:
    return Problem(413, "too-large", "The body is too large", f"a body has at most {limit_bytes} bytes")


def too_slow(limit_seconds: int) -> Problem:
    detail = f"the whole body has to arrive within {limit_seconds} seconds"
    return Problem(408, "too-slow", "The body did not arrive in time", detail, headers={"connection": "close"})


def method_not_allowed(method: str, allowed: str) -> Problem:
    detail = f"{method} does nothing here; allowed are {allowed}"
    return Problem(405, "method-not-allowed", "Method not allowed", detail, headers={"allow": allowed})


def unavailable(what: str) -> Problem:
    """Something that we need does not answer: 503, and soon worth another try."""
    return Problem(503, "unavailable", f"{what} is unavailable", f"{what} did not answer in time", headers=RETRY_SOON)


def internal() -> Problem:
    return Problem(500, "internal", "Internal error", "the error was logged")


def problem_of(error: SpendgateError) -> Problem:
    """What the gate says, as HTTP says it."""
    if isinstance(error, UnknownMeter):
        return Problem(422, "unknown-meter", "Unknown meter", str(error), field=error.field, expected=error.expected)
    if isinstance(error, AboveReserved):
        title = "More than was reserved"
        return Problem(422, "above-reserved", title, str(error), field=error.field, expected=error.expected)
    if isinstance(error, InvalidEvent):
        return invalid(error.field, error.expected)
    if isinstance(error, UnknownReservation):
        return unknown_reservation()
    if isinstance(error, ReservationFinished):
        title = "The reservation has ended"
        return Problem(409, "reservation-finished", title, str(error), more={"ended": error.ended})
    if isinstance(error, TooManyReservations):
        return Problem(409, "too-many-reservations", "Too many open reservations", str(error))
    if isinstance(error, Conflict):
        return Problem(409, "conflict", "This event_id was used before", str(error), field="event_id")
    if isinstance(error, NotPrepared):
        return Problem(503, "not-ready", "Spendgate is not ready", str(error), headers=RETRY_SOON)
    if isinstance(error, GateUnavailable):
        detail = "Redis did not answer in time; retry with the same event_id, which is debited once"
        return Problem(503, "unavailable", "The gate is unavailable", detail, headers=RETRY_SOON)
    return internal()


def _printable(text: str) -> str:
    """What a caller sent comes back in a problem: shortened, and without the half characters that JSON can't carry."""
    return text[:MAX_SHOWN].encode("utf-8", "replace").decode()
