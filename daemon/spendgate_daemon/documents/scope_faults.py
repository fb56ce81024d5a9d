"""The limits of one plan held to each other: two that count the same, and one that another never lets be reached.

Scope is what a limit counts and from when to when. Limits of one scope differ only in their numbers, so the smaller
number makes the larger one mean nothing. Three pairs do make sense: an enforced limit and a shadow of it (a number that is
tried out), a contractual cap and a number (a ceiling above whatever is agreed), and rates over different times.
"""

from __future__ import annotations

from collections.abc import Iterator

from spendgate_daemon.documents.document import (
    ConcurrencyRule,
    CreditsRule,
    PerEventRule,
    Plan,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Rule,
)
from spendgate_daemon.documents.limit_faults import hard_cap_of
from spendgate_daemon.documents.notation import parse_duration_seconds, parse_instant_us, parse_rate
from spendgate_daemon.documents.patterns import meters_of
from spendgate_daemon.documents.periods import CALENDAR_PERIODS, Period, period_of

Path = tuple[str | int, ...]
Faults = Iterator[tuple[Path, str]]


def scope_faults(document: PolicyDocument, plan: Plan, at: Path) -> Faults:
    """`at` is the path of the plan's limits. Limits that are faulty in themselves are left out."""
    yield from _twice(document, plan, at)
    yield from _never_reached(document, plan, at)


def _twice(document: PolicyDocument, plan: Plan, at: Path) -> Faults:
    first: dict[object, str] = {}
    for index, rule in enumerate(plan.limits):
        scope = _scope(document, rule)
        if scope is None:
            continue
        if scope in first:
            advice = "state one of them, or try the other one out with mode: shadow"
            yield (*at, index, "id"), f"{rule.id!r} counts exactly what {first[scope]!r} counts; {advice}"
        first.setdefault(scope, rule.id)


def _scope(document: PolicyDocument, rule: Rule) -> object | None:
    """Equal for limits that differ only in their numbers; None for a rule that is faulty in itself."""
    match = tuple(sorted(rule.match.items()))
    if isinstance(rule, CreditsRule):
        return "credits", tuple(sorted(rule.weights)), match, rule.mode
    meters = meters_of(document, rule.meter)
    if not meters:
        return None
    common = (meters, match, rule.mode)
    if isinstance(rule, PerEventRule):
        return "per_event", common, rule.field
    if isinstance(rule, ConcurrencyRule):
        return "concurrency", common, rule.per
    if isinstance(rule, RateRule):
        return ("rate", common, rule.per, rule.rate.partition("/")[2]) if parse_rate(rule.rate) else None
    period = _period(document, rule)
    return ("quota", common, rule.per, period, isinstance(rule.cap, int)) if period is not None else None


def _never_reached(document: PolicyDocument, plan: Plan, at: Path) -> Faults:
    """A day's cap that is not below the month's: the month is over before."""
    quotas = []
    for index, rule in enumerate(plan.limits):
        if isinstance(rule, QuotaRule) and isinstance(rule.cap, int):
            period = _period(document, rule)
            if period is not None:
                quotas.append((index, rule, rule.cap, period, hard_cap_of(rule)))
    for index, rule, cap, period, _ in quotas:
        counted = (meters_of(document, rule.meter), rule.match, rule.per)
        for _, longer, _, longer_period, ceiling in quotas:
            if longer.mode == "shadow" or ceiling is None or cap < ceiling:
                continue
            if period.longest_seconds >= longer_period.shortest_seconds:
                continue
            if counted == (meters_of(document, longer.meter), longer.match, longer.per):
                yield (
                    (*at, index, "cap"),
                    f"{cap} per {rule.period} is never reached: {longer.id!r} lets through {ceiling} per {longer.period}",
                )
                break


def _period(document: PolicyDocument, rule: QuotaRule) -> Period | None:
    """None where the period or its anchor is no good."""
    if rule.period not in CALENDAR_PERIODS and not parse_duration_seconds(rule.period):
        return None
    if rule.anchor is not None and parse_instant_us(rule.anchor) is None:
        return None
    return period_of(rule, document.timezone)
