"""Two price lists of a wallet: which model's units cost more, and which cost less."""

from __future__ import annotations

from spendgate_daemon.documents.diff.values import Difference, Differences, Effect, ranked
from spendgate_daemon.documents.document import CreditsRule, PolicyDocument
from spendgate_daemon.documents.patterns import covers

_DENIED = float("inf")
"""A model without a weight: no price is higher."""


def weight_differences(
    old: CreditsRule, old_document: PolicyDocument, new: CreditsRule, new_document: PolicyDocument
) -> Differences:
    """Per meter and model pattern that either of them names. A meter without weights is free."""
    for meter in sorted({*old.weights, *new.weights}):
        before, after = old.weights.get(meter), new.weights.get(meter)
        if before is None or after is None:
            effect: Effect = "tighter" if before is None else "looser"
            yield Difference(f"weights of {meter}", _list(before), _list(after), effect)
            continue
        for pattern in sorted({*before, *after}):
            was, now = _price(before, old_document, pattern), _price(after, new_document, pattern)
            if was != now:
                field = f"weight of {meter} for {'any model' if pattern == '*' else pattern}"
                yield Difference(field, _words(was), _words(now), ranked(was, now, "tighter"))


def _price(weights: dict[str, int], document: PolicyDocument, pattern: str) -> float:
    """What a model that only this pattern names costs a unit: the most specific pattern that covers it counts."""
    covering = [each for each in weights if covers(each, pattern)]
    if covering:
        return weights[max(covering, key=lambda each: (not each.endswith("*"), len(each)))]
    fallback = document.defaults.model_without_weight
    return _DENIED if fallback == "deny" else fallback


def _words(price: float) -> str:
    return "denied" if price == _DENIED else f"{int(price):,}"


def _list(weights: dict[str, int] | None) -> str:
    if weights is None:
        return "free"
    return ", ".join(f"{pattern} {price:,}" for pattern, price in sorted(weights.items()))
