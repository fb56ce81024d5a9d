"""Document, plan and contract → effective policy. Pure: the same input gives the same digest."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from spendgate.policy import EffectivePolicy, ReservationTerms
from spendgate_daemon.documents.compile_limits import Contract, compile_limit
from spendgate_daemon.documents.document import Plan, PolicyDocument
from spendgate_daemon.documents.errors import UnknownBillingDay, UnknownPlan, UnknownZone
from spendgate_daemon.documents.notation import is_zone, parse_duration_seconds
from spendgate_daemon.documents.reservations import reservation_terms

__all__ = ["UnknownPlan", "compile_default", "compile_policy"]

T = TypeVar("T", bound=msgspec.Struct)

_US = 1_000_000


def compile_policy(
    document: PolicyDocument,
    plan: str,
    caps: Mapping[str, int],
    *,
    now: datetime,
    timezone: str | None = None,
    anchor_day: int | None = None,
) -> EffectivePolicy:
    """The policy of a customer on `plan` whose contract has `caps` (meter → units), an IANA zone and a billing day (1 to
    31); None where it states none. Of `now` only the UTC month counts: it chooses which periods the calendar tables
    cover. Raises UnknownPlan, UnknownZone and UnknownBillingDay."""
    if plan not in document.plans:
        raise UnknownPlan(plan, tuple(document.plans))
    if timezone is not None and not is_zone(timezone):
        raise UnknownZone(timezone)
    if anchor_day is not None and not 1 <= anchor_day <= 31:
        raise UnknownBillingDay(anchor_day)
    zone = document.timezone if timezone is None else timezone
    contract = Contract(caps, zone, 1 if anchor_day is None else anchor_day)
    rules = document.plans[plan]
    limits = (compile_limit(document, rules, rule, contract, now) for rule in rules.limits)
    policy = EffectivePolicy(
        document=document.digest,
        plan=plan,
        meters=_units(document),
        limits=tuple(_canonical(limit) for limit in limits if limit is not None),
        models=rules.models,
        timezone=zone,
        reservations=_canonical(reservation_terms(rules.reservations)),
        max_staleness_us=_max_staleness_us(rules),
    )
    return _canonical(policy)


def compile_default(document: PolicyDocument, *, now: datetime) -> EffectivePolicy:
    """The policy for customers nobody knows: the plan the document names, or one that denies them."""
    unknown = document.defaults.unknown_customer
    if unknown != "deny":
        return compile_policy(document, unknown, {}, now=now)
    policy = EffectivePolicy(
        document=document.digest,
        plan="unknown",
        meters=_units(document),
        limits=(),
        deny_unknown=True,
        timezone=document.timezone,
        reservations=ReservationTerms(),
    )
    return _canonical(policy)


def _units(document: PolicyDocument) -> dict[str, str]:
    return {name: meter.unit for name, meter in document.meters.items()}


def _max_staleness_us(plan: Plan) -> int | None:
    seconds = parse_duration_seconds(plan.max_staleness) if plan.max_staleness is not None else None
    return seconds * _US if seconds is not None else None


def _canonical(value: T) -> T:
    """The same value with the default itself wherever a field only equals it: the encoder tells a default by identity,
    and equal policies must have one digest."""
    defaults = _defaults(type(value))
    shared = {name: default for name, default in defaults.items() if getattr(value, name) == default}
    return msgspec.structs.replace(value, **shared) if shared else value


@functools.cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    fields = msgspec.structs.fields(kind)
    return {field.name: field.default for field in fields if field.default is not msgspec.NODEFAULT}
