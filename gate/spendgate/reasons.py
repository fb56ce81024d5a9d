"""Why: one plain English sentence for each reason code, and the smallest thing that would let a denied event pass.

`REASONS` is the only table of them: answers, lists, the trace, the dashboard and `spendgate replay` all read it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from spendgate.decide import Verdict
from spendgate.event import UsageEvent
from spendgate.limits.result import LimitResult
from spendgate.local_time import local_text
from spendgate.policy import EffectivePolicy
from spendgate.state import Override

MICRO: Final = 1_000_000
SHOWN_CHARACTERS: Final = 80


class Reason(msgspec.Struct, frozen=True):
    """`sentence` is for one decision and may name its numbers, `{amount}` and its like with their unit; `short` is for
    lists, where no numbers are at hand (None: the sentence has none). `advice` helps where no number does."""

    sentence: str
    short: str | None = None
    advice: str | None = None

    @property
    def in_lists(self) -> str:
        return self.short if self.short is not None else self.sentence


REASONS: Final = {
    "allowed": Reason("Every limit has room for this event."),
    "allowed_by_override": Reason(
        "Limit {id} has no room, but override {override} lets this event pass.",
        short="A limit has no room, but an override lets this event pass.",
    ),
    "recorded": Reason("Recorded as usage that already happened; recorded usage is never denied."),
    "unknown_customer": Reason(
        "Nobody knows this customer, and the policy document denies unknown customers.",
        advice="create the customer in the billing system, or name a plan for unknown customers in the policy document",
    ),
    "customer_suspended": Reason(
        "The billing system has suspended this customer, so nothing passes.",
        advice="reactivate the customer in the billing system",
    ),
    "customer_cancelled": Reason(
        "The billing system says that this customer's contract is cancelled, so nothing passes.",
        advice="renew the contract in the billing system",
    ),
    "override_stop": Reason(
        "Override {override} stops this customer until {until}.",
        short="An override stops this customer.",
        advice="revoke override {override}, or wait until it expires on {until}",
    ),
    "model_not_allowed": Reason(
        "Plan {plan} does not include the model {model}.",
        short="The plan does not include this model.",
        advice="ask for a model that the plan includes ({models}), or change the plan",
    ),
    "model_without_weight": Reason(
        "Limit {id} gives no credit weight for {model_or_none}, so the event has no price.",
        short="The policy document gives no credit weight for this model, so the event has no price.",
        advice="add a credit weight for this model to limit {id} in the policy document",
    ),
    "policy_stale": Reason(
        "The policy in force is too old: limit {id} does not know the current {period} any more.",
        short="The policy in force is too old to know the current period.",
        advice="run the daemon, which renews policies before their periods end",
    ),
    "quota_exceeded": Reason(
        "Limit {id}{scope}: the event asks for {amount}, but only {remaining} of {limit} {are} left {in_period}{held}.",
        short="More than the quota has left.",
    ),
    "credits_exceeded": Reason(
        "Limit {id}{scope}: the event costs {amount}, but the balance is {remaining}{held}.",
        short="More than the credit balance.",
    ),
    "rate_exceeded": Reason(
        "Limit {id}{scope}: the event asks for {amount}, but the rate of {period} has room for {remaining} now.",
        short="Faster than the rate allows.",
    ),
    "above_burst": Reason(
        "Limit {id}{scope}: the event asks for {amount}, more than the {limit} that this rate ever lets through at once.",
        short="More than the rate ever lets through at once.",
    ),
    "too_many_open": Reason(
        "Limit {id}{scope}: {reserved} {are_reserved} open already, as many as are allowed at once.",
        short="As many are open already as are allowed at once.",
        advice="wait until one of them ends, or release reservations that nobody needs any more",
    ),
    "too_many_values": Reason(
        "Limit {id} counts each {per} apart, and there are already as many different ones as it keeps.",
        short="A limit counts each value of a field apart, and there are already as many as it keeps.",
        advice="use a value of {per} that was used before, or raise max_values of limit {id}",
    ),
    "mirror_stale": Reason(
        "The billing data is too old, and what limit {id} lets pass meanwhile is used up.",
        short="The billing data is too old, and what may pass meanwhile is used up.",
        advice="run the daemon and look at its connection to the billing system; it passes again once the data is fresh",
    ),
    "event_too_large": Reason(
        "Limit {id}{scope}: {what} {amount}, more than the {limit} allowed in one event.",
        short="Larger than one event may be.",
    ),
    "outage": Reason(
        "Redis does not answer, and what may pass meanwhile does not cover this event.",
        advice="try again in a moment; if it lasts, look at Redis",
    ),
    "allowed_in_outage": Reason("Redis does not answer; this is within what may pass meanwhile, and is settled later."),
    "settled": Reason("It passed while Redis did not answer, and is debited now."),
    "corrected": Reason("What was committed is put right: the difference is debited, or taken back."),
    "committed": Reason("What was really used is debited; the rest of the reservation is free again."),
    "released": Reason("Nothing was used; the reservation is free again."),
    "expired": Reason("Nobody ended the reservation by its deadline; it is free again."),
    "expired_committed": Reason("Nobody ended the reservation by its deadline; the plan debits it as reserved."),
    "extended": Reason("The reservation's deadline was moved."),
    "restored": Reason("Redis had lost what it knew of this customer; it was made again from the stored records."),
    "repaired": Reason("What counters held for reservations did not add up to those that are open; it was put right."),
    "external": Reason("Usage recorded outside the gate crossed a threshold."),
    "standing": Reason("The customer's state changed without an event: a reset, an expiry, an override or new terms."),
}


class Case(msgspec.Struct, frozen=True):
    """What sentences speak of: a verdict, and what it was made from. Times are told in the policy's time zone."""

    verdict: Verdict
    policy: EffectivePolicy
    event: UsageEvent
    overrides: Sequence[Override]
    now_us: int

    @property
    def line(self) -> LimitResult | None:
        """The limit that decided."""
        return next((line for line in self.verdict.limits if line.id == self.verdict.limit_id), None)

    def time_text(self, instant_us: int) -> str:
        return local_text(instant_us, self.policy.timezone)


class Unblock(msgspec.Struct, frozen=True):
    """The smallest change that would let the event pass. `short` is in `unit`; `resets_at_us` None: waiting does not
    help."""

    message: str
    limit_id: str | None = None
    short: int = 0
    unit: str = ""
    resets_at_us: int | None = None


def rfc3339(instant_us: int) -> str:
    """UTC, whole microseconds, trailing zeros of the fraction left out."""
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant_us)
    return instant.isoformat().replace("+00:00", "Z")


def quantity_text(quantity: int, unit: str) -> str:
    """`1,200 tokens`, `1 run`; micro-credits are told as credits, exactly."""
    if unit == "micro-credits":
        whole, fraction = divmod(abs(quantity), MICRO)
        digits = f"{whole:,}" + (f".{fraction:06d}".rstrip("0") if fraction else "")
        return f"{'-' if quantity < 0 else ''}{digits} {'credit' if digits == '1' else 'credits'}"
    return f"{quantity:,} {unit if quantity == 1 else unit + 's'}"


def sentence_of(case: Case) -> str:
    """Why, in one sentence with its numbers."""
    reason = REASONS[case.verdict.reason]
    return _filled(reason.sentence, case)


def unblock_of(case: Case) -> Unblock | None:
    """None when the event was allowed. Where other limits deny the event as well, the message names them."""
    if case.verdict.outcome == "allow":
        return None
    unblock = _unblock_of_limit(case, case.line) if case.line is not None else None
    if unblock is None:
        override = _override_of(case) if case.verdict.reason == "override_stop" else None
        advice = _filled(REASONS[case.verdict.reason].advice or "", case)
        unblock = Unblock(advice, case.verdict.limit_id, resets_at_us=override.until_us if override else None)
    others = [line.id for line in case.verdict.limits if line.denies and line.id != case.verdict.limit_id]
    if not others:
        return unblock
    return msgspec.structs.replace(unblock, message=f"{unblock.message}; also denied by {', '.join(others)}")


def _unblock_of_limit(case: Case, line: LimitResult) -> Unblock | None:
    """By the limit's numbers; None where they don't help."""
    reason, limit = case.verdict.reason, line.limit or 0
    short = line.amount - (line.remaining or 0)
    if reason == "rate_exceeded":
        wait_seconds = -(-line.retry_after_us // MICRO)
        return Unblock(f"wait {wait_seconds:,} s", line.id, short, line.unit, case.now_us + line.retry_after_us)
    if reason == "credits_exceeded":
        return Unblock(f"{_text(line, short)} short: grant them, or ask for less", line.id, short, line.unit)
    if reason == "quota_exceeded":
        if line.amount > limit:
            message = f"ask for at most {_text(line, limit)}, all that a period of {line.period} has, or raise the cap"
            return Unblock(message, line.id, line.amount - limit, line.unit)
        resets_at_us = (line.period_end_seconds or 0) * MICRO
        less = f"ask for at most {_text(line, line.remaining)}, or " if line.remaining else ""
        message = f"{_text(line, short)} short: {less}wait until {case.time_text(resets_at_us)}, when it resets"
        return Unblock(message, line.id, short, line.unit, resets_at_us)
    if reason in ("above_burst", "event_too_large"):
        short = line.amount - limit
        how = f"lower {line.field} to" if line.field is not None else "split the event into parts of"
        return Unblock(f"{how} at most {_text(line, limit)}", line.id, short, line.unit)
    return None


def _filled(template: str, case: Case) -> str:
    line, policy = case.line, case.policy
    override, model = _override_of(case), case.event.model
    values = {
        "plan": policy.plan,
        "model": _shown(model),
        "models": ", ".join(policy.models or ()) or "none",
        "model_or_none": f"the model {_shown(model)}" if model is not None else "events without a model",
        "override": case.verdict.override_id,
        "until": case.time_text(override.until_us) if override is not None else None,
    }
    return template.format(**values, **(_values_of(line) if line is not None else {}))


def _values_of(line: LimitResult) -> dict[str, str | None]:
    remaining = line.remaining or 0 if line.kind == "credits" else max(0, line.remaining or 0)
    held = f"; {_text(line, line.reserved)} {_are(line.reserved)} held by runs that are still open"
    return {
        "id": line.id,
        "scope": f" for {line.per}={_shown(line.per_value)}" if line.per is not None else "",
        "amount": _text(line, line.amount),
        "remaining": _text(line, remaining),
        "limit": _text(line, line.limit or 0),
        "are": _are(remaining),
        "period": line.period,
        "in_period": _IN_PERIOD.get(line.period or "", f"in this period of {line.period}"),
        "reserved": _text(line, line.reserved),
        "are_reserved": _are(line.reserved),
        "held": held if line.reserved else "",
        "per": line.per,
        "what": f"{line.field} is" if line.field is not None else "the event asks for",
    }


_IN_PERIOD: Final = {"month": "this month", "week": "this week", "day": "today"}


def _text(line: LimitResult, quantity: int) -> str:
    """A quantity of this limit. A limit of a metadata field counts in that field's unit, which nobody told."""
    return f"{quantity:,}" if line.field is not None else quantity_text(quantity, line.unit)


def _shown(text: str | None) -> str | None:
    """What a caller sent: of any length, but not in a sentence."""
    return text if text is None or len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _are(quantity: int) -> str:
    return "is" if quantity == 1 else "are"


def _override_of(case: Case) -> Override | None:
    return next((each for each in case.overrides if each.id == case.verdict.override_id), None)
