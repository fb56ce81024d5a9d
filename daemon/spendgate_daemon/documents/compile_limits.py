"""One rule of a plan, and a contract → the limit that the gate enforces."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from spendgate.limits import MAX_COUNTER, Concurrency, Credits, Limit, PerEvent, Quota, Rate, Threshold, Weight
from spendgate_daemon.documents.document import (
    BillUpTo,
    ConcurrencyRule,
    CountedRule,
    CreditsRule,
    PerEventRule,
    Plan,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Rule,
)
from spendgate_daemon.documents.notation import parse_percent, parse_rate
from spendgate_daemon.documents.patterns import meters_of
from spendgate_daemon.documents.periods import of_customer, period_of, window_of

MICRO_CREDITS = 1_000_000


class Contract(msgspec.Struct, frozen=True):
    """What the contract says of one customer: caps by meter, the zone of its calendar, the day its months start on."""

    caps: Mapping[str, int]
    zone: str
    anchor_day: int


def compile_limit(document: PolicyDocument, plan: Plan, rule: Rule, contract: Contract, now: datetime) -> Limit | None:
    """None for a contractual cap that is missing and, as the document says, unlimited."""
    if isinstance(rule, QuotaRule):
        return _quota(document, plan, rule, contract, now)
    if isinstance(rule, CreditsRule):
        return _credits(document, rule)
    if isinstance(rule, RateRule):
        return _rate(document, rule)
    if isinstance(rule, ConcurrencyRule):
        return _concurrency(document, rule)
    return _per_event(document, rule)


def allowance_of(stated: int | str | None, cap: int) -> int:
    """Units of an outage allowance: of itself, or of a percentage of the cap, rounded down."""
    if isinstance(stated, int):
        return stated
    percent = parse_percent(stated) if stated is not None else None
    return cap * percent // 100 if percent is not None else 0


def _quota(document: PolicyDocument, plan: Plan, rule: QuotaRule, contract: Contract, now: datetime) -> Quota | None:
    meters = meters_of(document, rule.meter)
    cap = _cap(document, rule, meters[0], contract)
    if cap is None:
        return None
    hard_cap: int | None = cap
    thresholds = [Threshold(f"{percent}%", -(-cap * percent // 100)) for percent in rule.thresholds]
    if rule.overage != "block":
        hard_cap = min(cap + rule.overage.bill_up_to, MAX_COUNTER) if isinstance(rule.overage, BillUpTo) else None
        thresholds.append(Threshold("overage", cap + 1))
    allowance = allowance_of(plan.outage_allowance if rule.outage_allowance is None else rule.outage_allowance, cap)
    period = of_customer(period_of(rule, document.timezone), contract.zone, contract.anchor_day)
    return Quota(
        id=rule.id,
        meters=meters,
        unit=document.meters[meters[0]].unit,
        period=rule.period,
        window=window_of(period, now),
        cap=cap,
        hard_cap=hard_cap,
        floor=min(rule.floor, cap if hard_cap is None else hard_cap),
        thresholds=tuple(threshold for threshold in thresholds if threshold.at <= MAX_COUNTER + 1),
        when_exceeded=rule.when_exceeded,
        mode=rule.mode,
        match=rule.match,
        per=rule.per,
        max_values=_max_values(rule),
        outage_allowance=allowance if hard_cap is None else min(allowance, hard_cap),
    )


def _cap(document: PolicyDocument, rule: QuotaRule, meter: str, contract: Contract) -> int | None:
    """Units; None for no cap at all."""
    if isinstance(rule.cap, int):
        return rule.cap
    given = contract.caps.get(meter, document.defaults.missing_contractual_cap)
    if given == "unlimited":
        return None
    return 0 if given == "deny" else max(0, min(given, MAX_COUNTER))


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
        match=rule.match,
        outage_allowance=rule.outage_allowance * MICRO_CREDITS,
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
        match=rule.match,
        per=rule.per,
        max_values=_max_values(rule),
    )


def _concurrency(document: PolicyDocument, rule: ConcurrencyRule) -> Concurrency:
    return Concurrency(
        id=rule.id,
        meters=meters_of(document, rule.meter),
        max=rule.max,
        when_exceeded=rule.when_exceeded,
        mode=rule.mode,
        match=rule.match,
        per=rule.per,
        max_values=_max_values(rule),
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
        match=rule.match,
    )


def _max_values(rule: CountedRule) -> int:
    return rule.max_values if rule.per is not None else 0
