"""What a schema can't say: references, contradictions, and numbers that leave the range the gate computes in.

Here is what concerns the document and a plan; `limit_faults` holds a limit to itself, `scope_faults` limits to each other.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final

from spendgate_daemon.documents.document import Plan, PolicyDocument, QuotaRule, Reservations
from spendgate_daemon.documents.limit_faults import limit_faults
from spendgate_daemon.documents.notation import is_zone, parse_duration_seconds
from spendgate_daemon.documents.scope_faults import scope_faults

MAX_LIMITS: Final = 64
MAX_HELD_SECONDS: Final = 30 * 86_400
"""For reservations and for the age of the mirror: longer is a slip."""

Path = tuple[str | int, ...]
Faults = Iterator[tuple[Path, str]]


def faults_of(document: PolicyDocument, written: Container[Path]) -> Faults:
    """Every contradiction in a document whose shape is right, with its path. `written` are the paths that the text has:
    a default that contradicts something is no fault, the same value written down is."""
    if not is_zone(document.timezone):
        yield ("timezone",), f"{document.timezone!r} is no IANA time zone"
    unknown = document.defaults.unknown_customer
    if unknown != "deny" and unknown not in document.plans:
        yield ("defaults", "unknown_customer"), f"{unknown!r} is no plan of this document, nor deny"
    for name, plan in document.plans.items():
        path: Path = ("plans", name)
        yield from _plan_faults(plan, path)
        yield from _reservation_faults(plan.reservations, (*path, "reservations"))
        seen: set[str] = set()
        for index, rule in enumerate(plan.limits):
            at = (*path, "limits", index)
            if rule.id in seen:
                yield (*at, "id"), f"{rule.id!r} names two limits of plan {name!r}"
            seen.add(rule.id)
            yield from limit_faults(document, plan, rule, at, written)
        yield from scope_faults(document, plan, (*path, "limits"))


def _plan_faults(plan: Plan, path: Path) -> Faults:
    if len(plan.limits) > MAX_LIMITS:
        yield (*path, "limits"), f"a plan has at most {MAX_LIMITS} limits"
    if plan.max_staleness is not None:
        yield from _duration_faults(plan.max_staleness, (*path, "max_staleness"), 1)
    if plan.outage_allowance is not None and not any(isinstance(rule, QuotaRule) for rule in plan.limits):
        yield (*path, "outage_allowance"), "this plan has no quota, so there is no cap to take a percentage of"


def _reservation_faults(rules: Reservations, path: Path) -> Faults:
    """A left out duration gives way to a stated one, so only two stated ones can contradict each other."""
    for field, text, minimum in (
        ("lifetime", rules.lifetime, 1),
        ("max_lifetime", rules.max_lifetime, 1),
        ("grace", rules.grace, 0),
    ):
        if text is not None:
            yield from _duration_faults(text, (*path, field), minimum)
    if rules.max_lifetime is None:
        return
    longest = parse_duration_seconds(rules.max_lifetime)
    for field, text in (("lifetime", rules.lifetime), ("grace", rules.grace)):
        seconds = parse_duration_seconds(text) if text is not None else None
        if longest and seconds is not None and seconds > longest:
            yield (*path, field), f"the {field} ({text}) is longer than max_lifetime ({rules.max_lifetime})"


def _duration_faults(text: str, path: Path, minimum: int) -> Faults:
    seconds = parse_duration_seconds(text)
    if seconds is None or not minimum <= seconds <= MAX_HELD_SECONDS:
        yield path, f"{text!r} can't be used; expected a duration from {minimum}s to {MAX_HELD_SECONDS // 86_400}d"
