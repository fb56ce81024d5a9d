"""What can go wrong with UsageBox: it is not there (try again later), or it said no (do not)."""

from __future__ import annotations


class UsageBoxError(Exception):
    """Root of this package's errors."""


class UsageBoxUnavailable(UsageBoxError):
    """No answer, an answer that makes no sense, 5xx or 429. `retry_after_seconds` is what the answer asked for."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UsageBoxHeld(UsageBoxUnavailable):
    """Nothing was sent: UsageBox failed too often lately, or asked to be left alone until later."""


class DialectUnknown(UsageBoxUnavailable):
    """Its answers don't tell which dialect it speaks, and nothing is sent in a guessed one."""


class UsageBoxRefused(UsageBoxError):
    """A 4xx answer: the same request will be refused again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotInDialect(UsageBoxRefused):
    """The dialect has no words for this event; it was not sent. The status is what an API without them would answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 422)
