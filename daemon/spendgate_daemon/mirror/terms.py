"""What somebody says of a customer, as plain values → checked terms. The API and `customers.yaml` read with the same eyes,
and what UsageBox says has to keep the same bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from spendgate.errors import InvalidEvent
from spendgate.event import MAX_NUMBER, check_id
from spendgate.limits.check import Grant
from spendgate.reasons import MICRO
from spendgate.state import Status, burn_order
from spendgate_daemon.documents.notation import is_zone, parse_instant_us
from spendgate_daemon.documents.reading import Path, path_text

MAX_CREDITS: Final = 9 * 10**9
MAX_CAP: Final = 9 * 10**15
MAX_CAPS: Final = 64
MAX_GRANTS: Final = 32
MAX_PRIORITY: Final = 1000
STATUSES: Final = ("active", "suspended", "cancelled")
FIELDS: Final = frozenset(
    {"name", "plan", "status", "caps", "credits_granted_total", "timezone", "billing_anchor_day", "grants"}
)

_GRANT_FIELDS: Final = frozenset({"id", "credits", "expires_at", "priority"})
_LAST_EXPIRY_US: Final = 7_258_118_400_000_000
"""The year 2200: exact in a Lua number, and later than any contract."""


class CustomerTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of a customer. `version` None: the source has none, and a change makes the next one. `timezone`
    and `billing_anchor_day` are for limits that ask for the contract's; `grants` are credits on top of the cumulative
    total."""

    customer_id: str
    name: str
    plan: str
    status: Status = "active"
    caps: dict[str, int] = {}
    credits_granted_total: int | None = None
    version: int | None = None
    timezone: str | None = None
    billing_anchor_day: int | None = None
    grants: tuple[Grant, ...] = ()


class InvalidTerms(ValueError):
    """`expected` completes the sentence "<field> must be ..."."""

    def __init__(self, path: Path, expected: str) -> None:
        self.path = path
        self.field = path_text(path)
        self.expected = expected
        super().__init__(f"{self.field} must be {expected}")


def read_terms(customer_id: str, value: Any) -> CustomerTerms:
    """The terms of one customer. What is left out or null is not stated. Raises InvalidTerms at the first bad value."""
    if not isinstance(value, dict):
        raise InvalidTerms((), "an object with at least a plan")
    _refuse_unknown(value, FIELDS, ())
    _check_id(("customer_id",), customer_id)
    _check_id(("plan",), value.get("plan"))
    name, status, caps = value.get("name"), value.get("status", "active"), value.get("caps", {})
    if name is not None:
        _check_id(("name",), name)
    if status not in STATUSES:
        raise InvalidTerms(("status",), f"one of {', '.join(STATUSES)}")
    _check_caps(caps)
    granted, billing_day, timezone = (value.get(f) for f in ("credits_granted_total", "billing_anchor_day", "timezone"))
    if granted is not None:
        _check_whole(("credits_granted_total",), granted, 0, MAX_CREDITS)
    if billing_day is not None:
        _check_whole(("billing_anchor_day",), billing_day, 1, 31)
    if timezone is not None and not (isinstance(timezone, str) and is_zone(timezone)):
        raise InvalidTerms(("timezone",), "an IANA time zone such as Europe/Berlin")
    grants = burn_order(_read_grants(value.get("grants", [])))
    _check_sum(granted, grants)
    return CustomerTerms(
        customer_id=customer_id,
        name=name or customer_id,
        plan=value["plan"],
        status=status,
        caps=caps,
        credits_granted_total=granted,
        timezone=timezone,
        billing_anchor_day=billing_day,
        grants=grants,
    )


def check_terms(terms: CustomerTerms) -> None:
    """Raise InvalidTerms for values that neither store nor Redis could take, or that nobody can mean. A name is for reading
    only, so any will do."""
    _check_id(("customer_id",), terms.customer_id)
    _check_id(("plan",), terms.plan)
    _check_caps(terms.caps)
    if terms.version is not None:
        _check_whole(("version",), terms.version, 0, MAX_NUMBER)
    if terms.credits_granted_total is not None:
        _check_whole(("credits_granted_total",), terms.credits_granted_total, 0, MAX_CREDITS)
    _check_sum(terms.credits_granted_total, terms.grants)


def _check_caps(caps: Any) -> None:
    if not isinstance(caps, dict) or len(caps) > MAX_CAPS:
        raise InvalidTerms(("caps",), f"an object of at most {MAX_CAPS} meters")
    for meter, cap in caps.items():
        _check_whole(("caps", meter), cap, 0, MAX_CAP)


def _check_sum(granted: int | None, grants: Iterable[Grant]) -> None:
    if (granted or 0) * MICRO + sum(grant.micro_credits for grant in grants) > MAX_CREDITS * MICRO:
        raise InvalidTerms(("grants",), f"at most {MAX_CREDITS} credits in all, with credits_granted_total")


def _read_grants(value: Any) -> Iterator[Grant]:
    if not isinstance(value, list) or len(value) > MAX_GRANTS:
        raise InvalidTerms(("grants",), f"a list of at most {MAX_GRANTS} grants")
    seen: set[str] = set()
    for index, item in enumerate(value):
        grant = _read_grant(item, ("grants", index))
        if grant.id in seen:
            raise InvalidTerms(("grants", index, "id"), "an id that no other grant of this customer has")
        seen.add(grant.id)
        yield grant


def _read_grant(value: Any, at: Path) -> Grant:
    if not isinstance(value, dict):
        raise InvalidTerms(at, "an object with id, credits and, if you like, expires_at and priority")
    _refuse_unknown(value, _GRANT_FIELDS, at)
    _check_id((*at, "id"), value.get("id"))
    _check_whole((*at, "credits"), value.get("credits"), 0, MAX_CREDITS)
    priority = value.get("priority", 0)
    _check_whole((*at, "priority"), priority, -MAX_PRIORITY, MAX_PRIORITY)
    expires_at = value.get("expires_at")
    expires_at_us = 0
    if expires_at is not None:
        expires_at_us = (parse_instant_us(expires_at) if isinstance(expires_at, str) else None) or 0
        if not 0 < expires_at_us <= _LAST_EXPIRY_US:
            expected = "an RFC 3339 instant such as 2026-12-01T00:00:00Z, from 1970 to 2200; left out, it never ends"
            raise InvalidTerms((*at, "expires_at"), expected)
    return Grant(value["id"], value["credits"] * MICRO, expires_at_us, priority)


def _refuse_unknown(value: Mapping[str, Any], known: frozenset[str], at: Path) -> None:
    for name in value:
        if name not in known:
            raise InvalidTerms((*at, name), f"absent: it is no field here; known are {', '.join(sorted(known))}")


def _check_id(path: Path, value: Any) -> None:
    try:
        check_id(path_text(path), value)
    except InvalidEvent as exc:
        raise InvalidTerms(path, exc.expected) from exc


def _check_whole(path: Path, value: Any, minimum: int, maximum: int) -> None:
    if type(value) is not int or not minimum <= value <= maximum:
        raise InvalidTerms(path, f"a whole number from {minimum} to {maximum}")
