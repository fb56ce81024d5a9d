"""Two versions of one limit: what differs in meaning. The same said in other words is no difference."""

from __future__ import annotations

import msgspec

from spendgate_daemon.documents.compile_limits import allowance_of
from spendgate_daemon.documents.describe import match_words, overage_words, period_words
from spendgate_daemon.documents.diff.values import Difference, Differences, Effect, number, ranked, word
from spendgate_daemon.documents.diff.weights import weight_differences
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
from spendgate_daemon.documents.patterns import covers, meters_of
from spendgate_daemon.documents.periods import Period, period_of


class Version(msgspec.Struct, frozen=True):
    """A limit in its document."""

    document: PolicyDocument
    plan: Plan
    rule: Rule


def limit_differences(old: Version, new: Version) -> Differences:
    """Of two limits of one kind. In a limit that was and stays in shadow nothing is tighter or looser."""
    shadow = old.rule.mode == new.rule.mode == "shadow"
    for found in _differences(old, new):
        yield msgspec.structs.replace(found, effect="neither") if shadow else found


def _differences(old: Version, new: Version) -> Differences:
    before, after = old.rule, new.rule
    if not isinstance(before, CreditsRule) and not isinstance(after, CreditsRule):
        yield from _meters(meters_of(old.document, before.meter), meters_of(new.document, after.meter))
    if isinstance(before, QuotaRule) and isinstance(after, QuotaRule):
        yield from _quota(before, after)
        yield from _period(before, old.document, after, new.document)
        yield from _allowance(before, old.plan, after, new.plan)
    if isinstance(before, CreditsRule) and isinstance(after, CreditsRule):
        yield from weight_differences(before, old.document, after, new.document)
        yield from number("floor", before.floor, after.floor, "tighter")
        yield from number("outage_allowance", before.outage_allowance, after.outage_allowance, "looser")
    if isinstance(before, RateRule) and isinstance(after, RateRule):
        yield from _rate(before, after)
    if isinstance(before, ConcurrencyRule) and isinstance(after, ConcurrencyRule):
        yield from number("max", before.max, after.max, "looser")
    if isinstance(before, PerEventRule) and isinstance(after, PerEventRule):
        yield from number("max", before.max, after.max, "looser")
        yield from word("field", before.field or "", after.field or "")
    if before.match != after.match:
        words = match_words(before.match), match_words(after.match)
        yield Difference("match", *words, _match_effect(before.match, after.match))
    if isinstance(before, CountedRule) and isinstance(after, CountedRule):
        yield from _apart(before, after)
    if not any(isinstance(rule, QuotaRule) and rule.overage == "bill" for rule in (before, after)):
        yield from word("when_exceeded", before.when_exceeded, after.when_exceeded, ("throttle", "stop"))
    yield from word("mode", before.mode, after.mode, ("shadow", "enforce"))


def _meters(old: tuple[str, ...], new: tuple[str, ...]) -> Differences:
    """What is counted, whichever pattern names it: a meter more makes the limit reached sooner."""
    if old != new:
        effect: Effect = "tighter" if set(old) < set(new) else "looser" if set(new) < set(old) else "neither"
        yield Difference("meters", ", ".join(old), ", ".join(new), effect)


def _quota(old: QuotaRule, new: QuotaRule) -> Differences:
    if old.cap != new.cap:
        both = isinstance(old.cap, int) and isinstance(new.cap, int)
        effect = ranked(int(old.cap), int(new.cap), "looser") if both else "neither"
        yield Difference("cap", _cap_words(old), _cap_words(new), effect)
    if old.overage != new.overage:
        effect = ranked(_beyond(old), _beyond(new), "looser")
        yield Difference("overage", overage_words(old), overage_words(new), effect)
    if old.thresholds != new.thresholds:
        yield Difference("thresholds", _percents(old), _percents(new))
    yield from number("floor", old.floor, new.floor, "tighter")


def _period(old: QuotaRule, before: PolicyDocument, new: QuotaRule, after: PolicyDocument) -> Differences:
    was, now = period_of(old, before.timezone), period_of(new, after.timezone)
    # A change of the document's own zone is told once, not at each limit.
    same = all(period_of(old, zone) == period_of(new, zone) for zone in (before.timezone, after.timezone))
    if was != now and not same:
        yield Difference("period", period_words(old), period_words(new), _length_effect(was, now))


def _length_effect(old: Period, new: Period) -> Effect:
    """The same cap for a longer time is less."""
    if new.shortest_seconds > old.longest_seconds:
        return "tighter"
    return "looser" if new.longest_seconds < old.shortest_seconds else "neither"


def _allowance(old: QuotaRule, before: Plan, new: QuotaRule, after: Plan) -> Differences:
    """A plan's percentage is told at the plan, so only a limit that states its own, now or before, differs here."""
    if old.outage_allowance is None and new.outage_allowance is None:
        return
    was = before.outage_allowance if old.outage_allowance is None else old.outage_allowance
    now = after.outage_allowance if new.outage_allowance is None else new.outage_allowance
    was, now = (0 if stated in (None, "0%") else stated for stated in (was, now))
    if was == now:
        return
    effect: Effect = "neither"
    if isinstance(old.cap, int) and isinstance(new.cap, int):
        effect = ranked(allowance_of(was, old.cap), allowance_of(now, new.cap), "looser")
    elif type(was) is type(now) or 0 in (was, now):
        effect = ranked(_amount(was), _amount(now), "looser")
    yield Difference("outage_allowance", _allowance_words(was), _allowance_words(now), effect)


def _rate(old: RateRule, new: RateRule) -> Differences:
    was, now = parse_rate(old.rate), parse_rate(new.rate)
    if was is None or now is None:
        raise ValueError("a rate passed the checks and is none")
    speed = ranked(was[0] * now[1], now[0] * was[1], "looser")
    if speed != "neither":
        yield Difference("rate", old.rate, new.rate, speed)
    bursts = was[2] if old.burst is None else old.burst, now[2] if new.burst is None else new.burst
    # Where neither states a burst it is the rate's own number, and goes with the rate.
    if old.burst is not None or new.burst is not None or ranked(*bursts, "looser") not in (speed, "neither"):
        yield from number("burst", *bursts, "looser")


def _match_effect(old: dict[str, str], new: dict[str, str]) -> Effect:
    """More events that count make the limit reached sooner."""
    if all(field in new and covers(pattern, new[field]) for field, pattern in old.items()):
        return "looser"
    if all(field in old and covers(pattern, old[field]) for field, pattern in new.items()):
        return "tighter"
    return "neither"


def _apart(old: CountedRule, new: CountedRule) -> Differences:
    """A counter of its own for each value lets all of them together use more."""
    if old.per != new.per:
        effect: Effect = "looser" if old.per is None else "tighter" if new.per is None else "neither"
        yield Difference("per", old.per or "", new.per or "", effect)
    elif old.per is not None:
        yield from number("max_values", old.max_values, new.max_values, "looser")


def _cap_words(rule: QuotaRule) -> str:
    return f"{rule.cap:,}" if isinstance(rule.cap, int) else "the contractual cap"


def _percents(rule: QuotaRule) -> str:
    return ", ".join(f"{percent}%" for percent in rule.thresholds)


def _beyond(rule: QuotaRule) -> float:
    if isinstance(rule.overage, BillUpTo):
        return rule.overage.bill_up_to
    return 0 if rule.overage == "block" else float("inf")


def _amount(stated: int | str | None) -> int:
    return stated if isinstance(stated, int) else parse_percent(stated or "0%") or 0


def _allowance_words(stated: int | str | None) -> str:
    if isinstance(stated, int):
        return f"{stated:,}" if stated else ""
    return stated or ""
