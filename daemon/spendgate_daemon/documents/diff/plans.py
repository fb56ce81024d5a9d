"""Two versions of a plan without its limits, and of a document without its plans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from spendgate.policy import ReservationTerms
from spendgate_daemon.documents.diff.values import Difference, Differences, Effect, number, ranked, word
from spendgate_daemon.documents.document import Defaults, Plan, PolicyDocument
from spendgate_daemon.documents.notation import parse_duration_seconds, parse_percent
from spendgate_daemon.documents.patterns import covers
from spendgate_daemon.documents.reservations import reservation_terms

_ENDLESS = float("inf")


def document_differences(old: PolicyDocument, new: PolicyDocument) -> Differences:
    """Zone, meters, defaults. An event with an unknown meter is refused, so a meter less is tighter."""
    yield from word("timezone", old.timezone, new.timezone)
    for name in sorted({*old.meters, *new.meters}):
        was, now = old.meters.get(name), new.meters.get(name)
        if was is None or now is None:
            effect: Effect = "looser" if was is None else "tighter"
            words = [f"{name} ({meter.unit})" if meter is not None else "" for meter in (was, now)]
            yield Difference("meter", words[0], words[1], effect)
        else:
            yield from word(f"unit of meter {name}", was.unit, now.unit)
    yield from _default_differences(old.defaults, new.defaults)


def plan_differences(old: Plan, new: Plan) -> Differences:
    """Models, reservations, staleness, the outage allowance, and the order of the limits: where several deny, the first
    that stops is the one that is told."""
    yield from _models(old, new)
    yield from _reservations(reservation_terms(old.reservations), reservation_terms(new.reservations))
    yield from _longest("max_staleness", old.max_staleness, new.max_staleness)
    was, now = (_percent(plan.outage_allowance) for plan in (old, new))
    if was != now:
        words = old.outage_allowance or "", new.outage_allowance or ""
        yield Difference("outage_allowance", *words, ranked(was, now, "looser"))
    kept = {rule.id for rule in old.limits} & {rule.id for rule in new.limits}
    orders = [", ".join(rule.id for rule in plan.limits if rule.id in kept) for plan in (old, new)]
    yield from word("order of limits", orders[0], orders[1])


def _default_differences(old: Defaults, new: Defaults) -> Differences:
    if old.unknown_customer != new.unknown_customer:
        ranks = old.unknown_customer != "deny", new.unknown_customer != "deny"
        words = old.unknown_customer, new.unknown_customer
        yield Difference("defaults.unknown_customer", *words, ranked(*ranks, "looser"))
    caps = old.missing_contractual_cap, new.missing_contractual_cap
    if _cap_rank(caps[0]) != _cap_rank(caps[1]):
        effect = ranked(_cap_rank(caps[0]), _cap_rank(caps[1]), "looser")
        yield Difference("defaults.missing_contractual_cap", _words(caps[0]), _words(caps[1]), effect)
    weights = old.model_without_weight, new.model_without_weight
    if weights[0] != weights[1]:
        prices = [_ENDLESS if weight == "deny" else weight for weight in weights]
        effect = ranked(prices[0], prices[1], "tighter")
        yield Difference("defaults.model_without_weight", _words(weights[0]), _words(weights[1]), effect)
    yield from number("defaults.missing_credits", old.missing_credits, new.missing_credits, "looser")


def _models(old: Plan, new: Plan) -> Differences:
    """Model by model, where both name some: one that another pattern still covers did not go."""
    if old.models is None or new.models is None:
        if old.models is not new.models:
            words = [", ".join(plan.models) if plan.models is not None else "any" for plan in (old, new)]
            yield Difference("models", words[0], words[1], "tighter" if old.models is None else "looser")
        return
    for model in sorted(_missing(old.models, new.models)):
        yield Difference("model", model, "", "tighter")
    for model in sorted(_missing(new.models, old.models)):
        yield Difference("model", "", model, "looser")


def _missing(models: tuple[str, ...], other: tuple[str, ...]) -> Iterator[str]:
    return (model for model in set(models) if not any(covers(each, model) for each in other))


def _reservations(old: ReservationTerms, new: ReservationTerms) -> Differences:
    yield from _duration("reservations.lifetime", old.lifetime_us, new.lifetime_us, "neither")
    yield from _duration("reservations.max_lifetime", old.max_lifetime_us, new.max_lifetime_us, "looser")
    yield from _duration("reservations.grace", old.grace_us, new.grace_us, "looser")
    yield from word("reservations.at_deadline", old.at_deadline, new.at_deadline, ("release", "commit"))
    if old.above != new.above:
        # A rejected commit lets less be used; capped or over is a matter of what is counted.
        ranks = old.above == "reject", new.above == "reject"
        yield Difference("reservations.above", old.above, new.above, ranked(*ranks, "tighter"))


def _longest(field: str, old: str | None, new: str | None) -> Differences:
    """Where nothing is stated, there is no end."""
    was, now = (_ENDLESS if text is None else parse_duration_seconds(text) or 0 for text in (old, new))
    if was != now:
        yield Difference(field, old or "", new or "", ranked(was, now, "looser"))


def _percent(text: str | None) -> int:
    return parse_percent(text) or 0 if text is not None else 0


def _duration(field: str, old_us: int, new_us: int, more: Effect) -> Differences:
    if old_us != new_us:
        yield Difference(field, _duration_words(old_us), _duration_words(new_us), ranked(old_us, new_us, more))


def _duration_words(duration_us: int) -> str:
    seconds = duration_us // 1_000_000
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _cap_rank(cap: int | Literal["deny", "unlimited"]) -> float:
    return {"deny": 0.0, "unlimited": _ENDLESS}[cap] if isinstance(cap, str) else cap


def _words(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value
