"""`spendgate policy check FILE`: what a document says, or everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spendgate_daemon.documents.document import (
    BillUpTo,
    CreditsRule,
    PerEventRule,
    Plan,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Rule,
)
from spendgate_daemon.documents.errors import DocumentError
from spendgate_daemon.documents.load import MAX_DOCUMENT_BYTES, load_document

GOOD: Final = 0
FAULTY: Final = 1
UNREADABLE: Final = 2


def check_file(path: Path | str) -> tuple[str, int]:
    """A report for people, and the exit code: 0 the document is good, 1 it has faults, 2 it can't be read."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as exc:
        return f"{path}: {exc.strerror or exc}", UNREADABLE
    try:
        document = load_document(text, str(path))
    except DocumentError as exc:
        return str(exc), FAULTY
    return f"{path}: good\n{describe(document)}", GOOD


def describe(document: PolicyDocument) -> str:
    """The document in a few lines: digest, meters, plans with a line for each limit, defaults."""
    meters = ", ".join(f"{name} ({meter.unit})" for name, meter in document.meters.items())
    lines = [f"digest {document.digest}", f"meters {meters}", f"timezone {document.timezone}"]
    for name, plan in document.plans.items():
        lines += [f"plan {name}: models {', '.join(plan.models) if plan.models is not None else 'any'}"]
        lines += [f"  {_describe_rule(plan, index)}" for index in range(len(plan.limits))]
    defaults = document.defaults
    lines.append(
        f"unknown customer: {defaults.unknown_customer}; missing contractual cap: {defaults.missing_contractual_cap}; "
        f"missing credits: {defaults.missing_credits:,}; model without weight: {defaults.model_without_weight}"
    )
    return "\n".join(lines)


def _describe_rule(plan: Plan, index: int) -> str:
    rule = plan.limits[index]
    shadow = " (shadow)" if rule.mode == "shadow" else ""
    return f"{rule.id}: {_terms(rule)}, then {rule.when_exceeded}{shadow}"


def _terms(rule: Rule) -> str:
    if isinstance(rule, QuotaRule):
        cap = "the contractual cap" if rule.cap == "contract" else f"{rule.cap:,}"
        over = {"block": "", "bill": ", overage billed"}
        extra = (
            f", overage billed up to {rule.overage.bill_up_to:,}"
            if isinstance(rule.overage, BillUpTo)
            else over[rule.overage]
        )
        return f"{cap} of {rule.meter} per {rule.period}{extra}"
    if isinstance(rule, CreditsRule):
        return f"credits for {', '.join(rule.weights)}"
    if isinstance(rule, RateRule):
        burst = f", burst {rule.burst:,}" if rule.burst is not None else ""
        return f"{rule.rate} of {rule.meter}{burst}"
    return _per_event_terms(rule)


def _per_event_terms(rule: PerEventRule) -> str:
    return f"{rule.field or rule.meter} at most {rule.max:,} in one event"
