"""A document in words, limit by limit."""

from __future__ import annotations

from collections.abc import Iterator

from spendgate_daemon.documents.document import (
    BillUpTo,
    ConcurrencyRule,
    CreditsRule,
    PerEventRule,
    Plan,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Reservations,
    Rule,
)
from spendgate_daemon.documents.periods import CONTRACT


def describe(document: PolicyDocument) -> str:
    """Digest, meters, plans with a line for each limit, defaults."""
    meters = ", ".join(f"{name} ({meter.unit})" for name, meter in document.meters.items())
    lines = [f"digest {document.digest}", f"meters {meters}", f"timezone {document.timezone}"]
    for name, plan in document.plans.items():
        lines += [f"plan {name}: {'; '.join(_plan_terms(plan))}"]
        lines += [f"  {rule.id}: {describe_limit(rule)}" for rule in plan.limits]
    defaults = document.defaults
    lines.append(
        f"unknown customer: {defaults.unknown_customer}; missing contractual cap: {defaults.missing_contractual_cap}; "
        f"missing credits: {defaults.missing_credits:,}; model without weight: {defaults.model_without_weight}"
    )
    return "\n".join(lines)


def describe_limit(rule: Rule) -> str:
    """In one line: what it counts and lets through, of which events, and what then."""
    endless = isinstance(rule, QuotaRule) and rule.overage == "bill"
    parts = [
        f"{_terms(rule)}{_apart(rule)}{_where(rule)}",
        *([] if endless else [f"then {rule.when_exceeded}"]),
        *_extras(rule),
        *_outage(rule),
    ]
    return ", ".join(parts) + (" (shadow)" if rule.mode == "shadow" else "")


def period_words(rule: QuotaRule) -> str:
    """`month from day 15`, `week from sunday`, `5h from 2026-01-01T06:00:00Z`, and the zone where the limit names one."""
    words = rule.period
    if rule.anchor_day == CONTRACT:
        words += " from the customer's billing day"
    elif rule.anchor_day != 1:
        words += f" from day {rule.anchor_day}"
    if rule.anchor_weekday != "monday":
        words += f" from {rule.anchor_weekday}"
    if rule.anchor is not None:
        words += f" from {rule.anchor}"
    if rule.timezone is not None:
        words += " in the customer's time zone" if rule.timezone == CONTRACT else f" in {rule.timezone}"
    return words


def overage_words(rule: QuotaRule) -> str:
    if isinstance(rule.overage, BillUpTo):
        return f"billed up to {rule.overage.bill_up_to:,}"
    return "billed" if rule.overage == "bill" else "blocked"


def match_words(match: dict[str, str]) -> str:
    """`model is claude-* and region is eu`"""
    return " and ".join(f"{field} is {pattern}" for field, pattern in sorted(match.items()))


def _plan_terms(plan: Plan) -> Iterator[str]:
    yield f"models {', '.join(plan.models) if plan.models is not None else 'any'}"
    if plan.max_staleness is not None:
        yield f"billing data may be {plan.max_staleness} old"
    if plan.outage_allowance is not None:
        yield f"outage allowance {plan.outage_allowance} of each cap"
    if plan.reservations != Reservations():
        yield f"reservations {', '.join(_reservation_terms(plan.reservations))}"


def _reservation_terms(rules: Reservations) -> Iterator[str]:
    if rules.lifetime is not None:
        yield f"held {rules.lifetime}"
    if rules.max_lifetime is not None:
        yield f"at most {rules.max_lifetime}"
    if rules.grace is not None:
        yield f"grace {rules.grace}"
    yield "committed at the deadline" if rules.at_deadline == "commit" else "released at the deadline"
    above = {"reject": "is rejected", "cap": "commits what was reserved", "overage": "goes over"}
    yield f"a larger commit {above[rules.above]}"


def _terms(rule: Rule) -> str:
    if isinstance(rule, QuotaRule):
        cap = "the contractual cap" if rule.cap == CONTRACT else f"{rule.cap:,}"
        over = "" if rule.overage == "block" else f", overage {overage_words(rule)}"
        return f"{cap} of {rule.meter} per {period_words(rule)}{over}"
    if isinstance(rule, CreditsRule):
        return f"credits for {', '.join(rule.weights)}"
    if isinstance(rule, RateRule):
        burst = f", burst {rule.burst:,}" if rule.burst is not None else ""
        return f"{rule.rate} of {rule.meter}{burst}"
    if isinstance(rule, ConcurrencyRule):
        touching = "" if rule.meter == "*" else f" that use {rule.meter}"
        return f"at most {rule.max:,} {'run' if rule.max == 1 else 'runs'} open at once{touching}"
    return f"{rule.field or rule.meter} at most {rule.max:,} in one event"


def _apart(rule: Rule) -> str:
    if isinstance(rule, CreditsRule | PerEventRule) or rule.per is None:
        return ""
    return f", for each {rule.per} (at most {rule.max_values:,})"


def _where(rule: Rule) -> str:
    return f", where {match_words(rule.match)}" if rule.match else ""


def _extras(rule: Rule) -> Iterator[str]:
    if isinstance(rule, QuotaRule | CreditsRule) and rule.floor:
        yield f"floor {rule.floor:,}"
    if isinstance(rule, QuotaRule) and rule.thresholds:
        yield f"told at {', '.join(f'{percent}%' for percent in rule.thresholds)}"


def _outage(rule: Rule) -> Iterator[str]:
    """What the limit states itself; a plan's percentage is told once, at the plan."""
    if isinstance(rule, CreditsRule) and rule.outage_allowance:
        yield f"in an outage {rule.outage_allowance:,} {'credit' if rule.outage_allowance == 1 else 'credits'}"
    if isinstance(rule, QuotaRule) and rule.outage_allowance is not None:
        stated = rule.outage_allowance
        yield f"in an outage {f'{stated:,}' if isinstance(stated, int) else f'{stated} of the cap'}"
