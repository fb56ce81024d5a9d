"""Document, plan and contractual caps → effective policy. Pure: the same input gives the same digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from spendgate.limits import Credits, Limit, PerEvent, Quota, Rate, Threshold, Weight
from spendgate.policy import EffectivePolicy
from spendgate_daemon.documents.document import (
    BillUpTo,
    CreditsRule,
    PerEventRule,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Rule,
)
from spendgate_daemon.documents.errors import PolicyError
from spendgate_daemon.documents.periods import parse_rate, window_of
from spendgate_daemon.documents.semantics import MAX_COUNTER, meters_of

MICRO_CREDITS = 1_000_000


class UnknownPlan(PolicyError):
    """The document has no plan of this name."""

    def __init__(self, plan: str, known: Sequence[str]) -> None:
        super().__init__(f"the policy document has no plan {plan!r}; it has {', '.join(known)}")
        self.plan = plan


def compile_policy(document: PolicyDocument, plan: str, caps: Mapping[str, int], *, now: datetime) -> EffectivePolicy:
    """The policy of a customer on `plan` with contractual `caps` (meter → units). `now` chooses which periods the
    calendar tables cover. Raises UnknownPlan."""
    if plan not in document.plans:
        raise UnknownPlan(plan, tuple(document.plans))
    rules = document.plans[plan]
    limits = (_limit(document, rule, caps, now) for rule in rules.limits)
    return EffectivePolicy(
        document=document.digest,
        plan=plan,
        meters={name: meter.unit for name, meter in document.meters.items()},
        limits=tuple(limit for limit in limits if limit is not None),
        models=rules.models,
        timezone=document.timezone,
    )


def compile_default(document: PolicyDocument, *, now: datetime) -> EffectivePolicy:
    """The policy for customers nobody knows: the plan the document names, or one that denies them."""
    unknown = document.defaults.unknown_customer
    if unknown != "deny":
        return compile_policy(document, unknown, {}, now=now)
    return EffectivePolicy(
        document=document.digest,
        plan="unknown",
        meters={name: meter.unit for name, meter in document.meters.items()},
        limits=(),
        deny_unknown=True,
        timezone=document.timezone,
    )


def _limit(document: PolicyDocument, rule: Rule, caps: Mapping[str, int], now: datetime) -> Limit | None:
    if isinstance(rule, QuotaRule):
        return _quota(document, rule, caps, now)
    if isinstance(rule, CreditsRule):
        return _credits(document, rule)
    if isinstance(rule, RateRule):
        return _rate(document, rule)
    return _per_event(document, rule)


def _quota(document: PolicyDocument, rule: QuotaRule, caps: Mapping[str, int], now: datetime) -> Quota | None:
    """None for a contractual cap that is missing and, as the document says, unlimited."""
    meters = meters_of(document, rule.meter)
    if rule.cap == "contract":
        given = caps.get(meters[0], document.defaults.missing_contractual_cap)
        if given == "unlimited":
            return None
        cap = 0 if given == "deny" else max(0, min(given, MAX_COUNTER))
    else:
        cap = rule.cap
    hard_cap: int | None = cap
    thresholds = [Threshold(f"{percent}%", -(-cap * percent // 100)) for percent in rule.thresholds]
    if rule.overage != "block":
        hard_cap = min(cap + rule.overage.bill_up_to, MAX_COUNTER) if isinstance(rule.overage, BillUpTo) else None
        thresholds.append(Threshold("overage", cap + 1))
    return Quota(
        id=rule.id,
        meters=meters,
        unit=document.meters[meters[0]].unit,
        period=rule.period,
        window=window_of(rule.period, rule.anchor_day, rule.timezone or document.timezone, now),
        cap=cap,
        hard_cap=hard_cap,
        floor=min(rule.floor, cap),
        thresholds=tuple(thresholds),
        when_exceeded=rule.when_exceeded,
        mode=rule.mode,
    )


def _credits(document: PolicyDocument, rule: CreditsRule) -> Credits:
    fallback = document.defaults.model_without_weight
    weights = []
    for meter, by_model in sorted(rule.weights.items()):
        # Literal names before prefixes, longer prefixes before shorter: the most specific pattern counts.
        patterns = sorted(by_model, key=lambda pattern: (pattern.endswith("*"), -len(pattern), pattern))
        weights += [Weight(meter, pattern, by_model[pattern]) for pattern in patterns]
        if fallback != "deny" and "*" not in by_model:
            weights.append(Weight(meter, "*", fallback))
    return Credits(
        id=rule.id,
        meters=tuple(sorted(rule.weights)),
        weights=tuple(weights),
        floor=rule.floor * MICRO_CREDITS,
        granted_when_unknown=document.defaults.missing_credits * MICRO_CREDITS,
        when_exceeded=rule.when_exceeded,
        mode=rule.mode,
    )


def _rate(document: PolicyDocument, rule: RateRule) -> Rate:
    parsed = parse_rate(rule.rate)
    if parsed is None:
        raise ValueError(f"{rule.rate!r} passed the checks and is no rate")
    units, per_us, number = parsed
    meters = meters_of(document, rule.meter)
    return Rate(
        id=rule.id,
        meters=meters,
        unit=document.meters[meters[0]].unit,
        rate=rule.rate,
        units=units,
        per_us=per_us,
        burst=rule.burst if rule.burst is not None else number,
        when_exceeded=rule.when_exceeded,
        mode=rule.mode,
    )


def _per_event(document: PolicyDocument, rule: PerEventRule) -> PerEvent:
    meters = meters_of(document, rule.meter)
    return PerEvent(
        id=rule.id,
        meters=meters,
        unit="token" if rule.field == "context_window" else document.meters[meters[0]].unit,
        max=rule.max,
        field=rule.field,
        when_exceeded=rule.when_exceeded,
        mode=rule.mode,
    )
