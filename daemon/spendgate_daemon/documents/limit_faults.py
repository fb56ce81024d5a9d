"""One limit held to itself, its plan's models and the document's meters: what it says twice over, or could never mean."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from spendgate.limits import MAX_COUNTER
from spendgate_daemon.documents.document import (
    BillUpTo,
    ConcurrencyRule,
    CreditsRule,
    PerEventRule,
    Plan,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Rule,
)
from spendgate_daemon.documents.notation import is_zone, parse_duration_seconds, parse_instant_us, parse_rate
from spendgate_daemon.documents.patterns import meters_of, overlap
from spendgate_daemon.documents.periods import CALENDAR_PERIODS, CONTRACT

Path = tuple[str | int, ...]
Faults = Iterator[tuple[Path, str]]


def limit_faults(document: PolicyDocument, plan: Plan, rule: Rule, at: Path, written: Container[Path]) -> Faults:
    """`at` is the limit's path, `written` the paths that the text has."""
    yield from _match_faults(plan, rule, at)
    if not isinstance(rule, CreditsRule | PerEventRule) and rule.per is None and (*at, "max_values") in written:
        yield (*at, "max_values"), "without per nothing is counted apart; add per, or leave max_values out"
    if isinstance(rule, CreditsRule):
        yield from _credits_faults(document, rule, at)
        return
    meters = meters_of(document, rule.meter)
    if not meters:
        known = ", ".join(document.meters)
        yield (*at, "meter"), f"{rule.meter!r} names no meter of this document; known are {known}"
    units = {document.meters[meter].unit for meter in meters}
    counts_units = not isinstance(rule, ConcurrencyRule) and not (isinstance(rule, PerEventRule) and rule.field)
    if len(units) > 1 and counts_units:
        yield (*at, "meter"), f"{rule.meter!r} adds up different units: {', '.join(sorted(units))}"
    if isinstance(rule, QuotaRule):
        yield from _quota_faults(rule, at, meters, written)
        yield from _period_faults(rule, at, written)
    if isinstance(rule, RateRule):
        yield from _rate_faults(rule, at)
    if isinstance(rule, ConcurrencyRule) and rule.max == 0:
        yield (*at, "max"), "a limit of 0 would deny every run; leave the meter out of the plan instead"


def hard_cap_of(rule: QuotaRule) -> int | None:
    """The most that a numeric cap ever lets through; None where that is the contract's, or has no end."""
    if not isinstance(rule.cap, int) or rule.overage == "bill":
        return None
    return rule.cap + (rule.overage.bill_up_to if isinstance(rule.overage, BillUpTo) else 0)


def _match_faults(plan: Plan, rule: Rule, at: Path) -> Faults:
    model = rule.match.get("model")
    if model is not None and plan.models is not None and not any(overlap(model, each) for each in plan.models):
        allowed = ", ".join(plan.models)
        yield (
            (*at, "match", "model"),
            f"the plan allows no model like {model!r}, only {allowed}; this limit never applies",
        )
    apart = rule.match or (not isinstance(rule, CreditsRule | PerEventRule) and rule.per is not None)
    if isinstance(rule, QuotaRule | CreditsRule) and rule.floor and apart:
        named = "match" if rule.match else "per"
        yield (
            (*at, "floor"),
            f"a floor stops the whole customer, and this limit speaks of a part of the use ({named}); leave one of them out",
        )


def _quota_faults(rule: QuotaRule, at: Path, meters: Sequence[str], written: Container[Path]) -> Faults:
    if rule.cap == CONTRACT and len(meters) != 1:
        yield (*at, "cap"), "a contractual cap belongs to one meter; this limit counts several"
    hard_cap = hard_cap_of(rule)
    if hard_cap is not None and hard_cap > MAX_COUNTER:
        yield (*at, "cap"), f"the cap, with what is billed above it, is at most {MAX_COUNTER}"
    if rule.overage == "bill":
        if (*at, "when_exceeded") in written:
            yield (*at, "when_exceeded"), "with overage: bill this limit is never exceeded; leave one of them out"
        if rule.floor:
            yield (*at, "floor"), "with overage: bill there is always something left; leave one of them out"
    elif rule.floor and hard_cap is not None and rule.floor >= hard_cap:
        yield (
            (*at, "floor"),
            f"the floor ({rule.floor}) is not below what the limit lets through ({hard_cap}): it would always stop",
        )
    if isinstance(rule.outage_allowance, int) and hard_cap is not None and rule.outage_allowance > hard_cap:
        yield (
            (*at, "outage_allowance"),
            f"the allowance ({rule.outage_allowance}) is more than the limit ever lets through ({hard_cap})",
        )
    yield from _threshold_faults(rule, at, hard_cap)


def _threshold_faults(rule: QuotaRule, at: Path, hard_cap: int | None) -> Faults:
    if list(rule.thresholds) != sorted(set(rule.thresholds)):
        yield (*at, "thresholds"), "thresholds ascend and none appears twice"
        return
    highest = max(rule.thresholds, default=0)
    if highest <= 100:
        return
    if rule.overage == "block":
        yield (*at, "thresholds"), f"{highest} % is never reached: with overage: block the use ends at the cap"
    elif isinstance(rule.cap, int) and -(-rule.cap * highest // 100) > (MAX_COUNTER if hard_cap is None else hard_cap):
        yield (*at, "thresholds"), f"{highest} % of the cap is more than the limit ever lets through"


def _period_faults(rule: QuotaRule, at: Path, written: Container[Path]) -> Faults:
    """An anchor that its period doesn't have is no detail: whoever wrote it expects other periods than would be counted."""
    calendar = rule.period in CALENDAR_PERIODS
    if not calendar and not parse_duration_seconds(rule.period):
        yield (*at, "period"), f"{rule.period!r} is neither month, week, day nor a duration such as 5h or 90m"
        return
    if rule.period != "month" and (*at, "anchor_day") in written:
        yield (*at, "anchor_day"), "only a month has a billing anchor"
    if rule.period != "week" and (*at, "anchor_weekday") in written:
        yield (*at, "anchor_weekday"), "only a week starts on a weekday"
    if rule.timezone is not None:
        if not calendar:
            yield (*at, "timezone"), f"{rule.period} is the same in every time zone; give an anchor instead, or a day"
        elif rule.timezone != CONTRACT and not is_zone(rule.timezone):
            yield (*at, "timezone"), f"{rule.timezone!r} is no IANA time zone, nor contract"
    if rule.anchor is not None:
        instant_us = parse_instant_us(rule.anchor)
        if calendar:
            yield (*at, "anchor"), f"a {rule.period} starts by the calendar; an anchor is for durations such as 5h"
        elif instant_us is None or instant_us % 1_000_000:
            yield (*at, "anchor"), f"{rule.anchor!r} is no RFC 3339 instant of a whole second: 2026-01-01T06:00:00Z"


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
    for meter in rule.weights:
        if meter not in document.meters:
            yield (*at, "weights", meter), f"{meter!r} is no meter of this document"
