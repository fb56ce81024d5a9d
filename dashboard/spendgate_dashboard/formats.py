"""Numbers and instants as people read them. The browser's locale is not asked: everybody sees the same figure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

MICRO = 1_000_000


def instant(text: str | None) -> datetime | None:
    """An RFC 3339 instant of the API."""
    return datetime.fromisoformat(text) if text else None


def exact(quantity: int | None, unit: str) -> str:
    """`1,204,880 tokens`; micro-credits as credits. None: no ceiling."""
    if quantity is None:
        return "no cap"
    if unit == "micro-credits":
        whole, fraction = divmod(abs(quantity), MICRO)
        digits = f"{whole:,}" + (f".{fraction:06d}".rstrip("0") if fraction else "")
        return f"{'-' if quantity < 0 else ''}{digits} credits"
    return f"{quantity:,} {unit if quantity == 1 else unit + 's'}"


def short(quantity: int | None, unit: str) -> str:
    """`1.2M tokens`, for where space is short."""
    if quantity is None:
        return "no cap"
    number = quantity / MICRO if unit == "micro-credits" else quantity
    name = "credits" if unit == "micro-credits" else unit if quantity == 1 else f"{unit}s"
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{suffix} {name}"
    return f"{number:,.6g} {name}"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """`3 min ago`."""
    if moment is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    return "just now" if seconds < 2 else f"{span(seconds)} ago"


def within(moment: datetime | None, now: datetime | None = None) -> str:
    """`in 4 h`, with the date when it is not today."""
    if moment is None:
        return "not before it resets"
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    if seconds <= 0:
        return "now"
    return f"in {span(seconds)}" + (f" ({utc(moment, date=True)})" if seconds > 86_400 else "")


def span(seconds: float) -> str:
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def utc(moment: datetime | None, *, date: bool = False) -> str:
    """Named time zone, always."""
    if moment is None:
        return "never"
    return moment.astimezone(UTC).strftime("%Y-%m-%d" if date else "%Y-%m-%d %H:%M:%S UTC")


def percent(used: int, limit: int | None) -> str:
    """`102 %` where it is over; a cap of 0 is used up."""
    if limit is None:
        return "no cap"
    return f"{used * 100 // limit if limit else 100} %"


def safe_cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
