"""What a schema can't say: references, patterns, and numbers that would leave the range the gate computes in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from spendgate.limits.check import matches
from spendgate_daemon.documents.document import (
    BillUpTo,
    CreditsRule,
    PerEventRule,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Rule,
)
from spendgate_daemon.documents.periods import CALENDAR_PERIODS, parse_duration_seconds, parse_rate

MAX_COUNTER: Final = 9 * 10**15
MAX_LIMITS: Final = 64

Path = tuple[str | int, ...]
Faults = Iterator[tuple[Path, str]]

_PATTERN = re.compile(r"[^*]+\*?|\*")


def faults_of(document: PolicyDocument) -> Faults:
    """Every contradiction in a document whose shape is right, with its path."""
    if not _is_zone(document.timezone):
        yield ("timezone",), f"{document.timezone!r} is no IANA time zone"
    unknown = document.defaults.unknown_customer
    if unknown != "deny" and unknown not in document.plans:
        yield ("defaults", "unknown_customer"), f"{unknown!r} is no plan of this document, nor deny"
    for name, plan in document.plans.items():
        path: Path = ("plans", name)
        for index, pattern in enumerate(plan.models or ()):
            if not _PATTERN.fullmatch(pattern):
                yield (*path, "models", index), "a pattern is literal text or a prefix with one final *"
        if len(plan.limits) > MAX_LIMITS:
            yield (*path, "limits"), f"a plan has at most {MAX_LIMITS} limits"
        seen: set[str] = set()
        for index, rule in enumerate(plan.limits):
            at = (*path, "limits", index)
            if rule.id in seen:
                yield (*at, "id"), f"{rule.id!r} names two limits of plan {name!r}"
            seen.add(rule.id)
            yield from _rule_faults(document, rule, at)


def meters_of(document: PolicyDocument, pattern: str) -> tuple[str, ...]:
    """The document's meters that a pattern names, sorted: the order of keys in a document means nothing."""
    return tuple(meter for meter in sorted(document.meters) if matches(pattern, meter))


def _rule_faults(document: PolicyDocument, rule: Rule, at: Path) -> Faults:
    if isinstance(rule, CreditsRule):
        yield from _credits_faults(document, rule, at)
        return
    meters = meters_of(document, rule.meter) if _PATTERN.fullmatch(rule.meter) else ()
    if not meters:
        known = ", ".join(document.meters)
        yield (*at, "meter"), f"{rule.meter!r} names no meter of this document; known are {known}"
    units = {document.meters[meter].unit for meter in meters}
    if len(units) > 1 and not (isinstance(rule, PerEventRule) and rule.field):
        yield (*at, "meter"), f"{rule.meter!r} adds up different units: {', '.join(sorted(units))}"
    if isinstance(rule, QuotaRule):
        yield from _quota_faults(rule, at, meters)
    if isinstance(rule, RateRule):
        yield from _rate_faults(rule, at)


def _quota_faults(rule: QuotaRule, at: Path, meters: tuple[str, ...]) -> Faults:
    if rule.cap == "contract" and len(meters) != 1:
        yield (*at, "cap"), "a contractual cap belongs to one meter; this limit counts several"
    if rule.period not in CALENDAR_PERIODS and parse_duration_seconds(rule.period) is None:
        yield (*at, "period"), f"{rule.period!r} is neither month, week, day nor a duration such as 5h or 90m"
    if rule.timezone is not None and not _is_zone(rule.timezone):
        yield (*at, "timezone"), f"{rule.timezone!r} is no IANA time zone"
    if rule.anchor_day != 1 and rule.period != "month":
        yield (*at, "anchor_day"), "only a month has a billing anchor"
    if list(rule.thresholds) != sorted(set(rule.thresholds)):
        yield (*at, "thresholds"), "thresholds ascend and none appears twice"
    extra = rule.overage.bill_up_to if isinstance(rule.overage, BillUpTo) else 0
    if isinstance(rule.cap, int):
        if rule.cap + extra > MAX_COUNTER:
            yield (*at, "cap"), f"the cap, with what is billed above it, is at most {MAX_COUNTER}"
        if rule.floor > rule.cap:
            yield (
                (*at, "floor"),
                f"the floor ({rule.floor}) is above the cap ({rule.cap}): this limit would always stop",
            )


def _rate_faults(rule: RateRule, at: Path) -> Faults:
    rate = parse_rate(rule.rate)
    if rate is None:
        yield (*at, "rate"), f"{rule.rate!r} is no rate: units / s, min, h or day, such as 100000/min"
        return
    units, per_us, number = rate
    burst = rule.burst if rule.burst is not None else number
    if burst * per_us + units > MAX_COUNTER:
        yield (*at, "burst"), f"a burst of {burst} at {rule.rate} leaves the range of exact integers (9e15)"


def _credits_faults(document: PolicyDocument, rule: CreditsRule, at: Path) -> Faults:
    for meter, weights in rule.weights.items():
        if meter not in document.meters:
            yield (*at, "weights", meter), f"{meter!r} is no meter of this document"
        for pattern in weights:
            if not _PATTERN.fullmatch(pattern):
                yield (*at, "weights", meter, pattern), "a pattern is literal text or a prefix with one final *"


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
