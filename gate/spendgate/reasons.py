"""One plain English sentence for each reason code, and the smallest thing that would let a denied event pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from spendgate.decide import Verdict
from spendgate.limits.result import LimitResult

MICRO: Final = 1_000_000

SENTENCES: Final = {
    "allowed": "Every limit has room for this event.",
    "allowed_by_override": "A limit has no room, but an override lets this event pass.",
    "recorded": "Recorded as usage that already happened; recorded usage is never denied.",
    "unknown_customer": "Nobody knows this customer, and the policy document denies unknown customers.",
    "customer_suspended": "The customer is suspended in the billing system.",
    "customer_cancelled": "The customer's contract is cancelled in the billing system.",
    "override_stop": "An override stops this customer.",
    "model_not_allowed": "The plan does not include this model.",
    "model_without_weight": "The policy document gives no credit weight for this model, so the event has no price.",
    "policy_stale": "The policy in force is too old to know the current period; a new one is needed.",
    "quota_exceeded": "The event asks for {amount}, but only {remaining} of {limit} {are} left in this {period}.",
    "credits_exceeded": "The event costs {amount}, but the balance is {remaining}.",
    "rate_exceeded": "The event asks for {amount}, but the rate of {period} leaves room for {remaining} now.",
    "above_burst": "The event asks for {amount}, more than the {limit} that this rate ever lets through at once.",
    "too_many_open": "{reserved} open at once already, which is the most that is allowed.",
    "too_many_values": "Limit {id} counts each {per} apart, and there are too many different ones already.",
    "mirror_stale": "The billing data is too old, and what may pass meanwhile is used up.",
    "committed": "What was really used is debited; the rest of the reservation is free again.",
    "released": "Nothing was used; the reservation is free again.",
    "expired": "Nobody ended the reservation by its deadline; it is free again.",
    "expired_committed": "Nobody ended the reservation by its deadline; the plan debits it as reserved.",
    "repaired": "What counters held for reservations did not add up to those that are open; it was put right.",
    "extended": "The reservation's deadline was moved.",
    "event_too_large": "The event has {amount}, more than the {limit} allowed in one event.",
}
"""`{amount}` and its like carry their unit."""


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


def sentence_of(verdict: Verdict) -> str:
    """Why, in one sentence with its numbers."""
    template = SENTENCES[verdict.reason]
    line = _deciding_line(verdict)
    if line is None or "{" not in template:
        return template
    remaining = max(0, line.remaining or 0) if line.kind != "credits" else line.remaining or 0
    return template.format(
        amount=quantity_text(line.amount, line.unit),
        remaining=quantity_text(remaining, line.unit),
        limit=quantity_text(line.limit or 0, line.unit),
        are="is" if remaining == 1 else "are",
        period=line.period,
        reserved=quantity_text(line.reserved, line.unit),
        id=line.id,
        per=line.per,
    )


def unblock_of(verdict: Verdict, now_us: int) -> Unblock | None:
    """None when the event was allowed."""
    if verdict.outcome == "allow":
        return None
    line = _deciding_line(verdict)
    if line is None:
        return Unblock(_ADVICE.get(verdict.reason, "Ask the provider to change the policy."))
    if verdict.reason == "rate_exceeded":
        wait_seconds = -(-line.retry_after_us // MICRO)
        room_at_us = now_us + line.retry_after_us
        return Unblock(f"wait {wait_seconds} s", line.id, line.amount - (line.remaining or 0), line.unit, room_at_us)
    if verdict.reason in ("quota_exceeded", "credits_exceeded"):
        short = line.amount - (line.remaining or 0)
        resets_at_us = line.period_end_seconds * MICRO if line.period_end_seconds else None
        when = f"; resets {rfc3339(resets_at_us)}" if resets_at_us else ""
        return Unblock(f"{quantity_text(short, line.unit)} short{when}", line.id, short, line.unit, resets_at_us)
    if verdict.reason in ("above_burst", "event_too_large"):
        short = line.amount - (line.limit or 0)
        text = f"{quantity_text(short, line.unit)} too many for one event; split it"
        return Unblock(text, line.id, short, line.unit)
    return Unblock(_ADVICE[verdict.reason], line.id)


def _deciding_line(verdict: Verdict) -> LimitResult | None:
    return next((line for line in verdict.limits if line.id == verdict.limit_id), None)


_ADVICE: Final = {
    "unknown_customer": "Create the customer in the billing system, or name a plan for unknown customers.",
    "customer_suspended": "Reactivate the customer in the billing system.",
    "customer_cancelled": "Renew the contract in the billing system.",
    "override_stop": "Revoke the override, or wait until it expires.",
    "model_not_allowed": "Use a model of the plan, or change the plan.",
    "model_without_weight": "Add a credit weight for this model to the policy document.",
    "too_many_open": "Wait until a run ends, or release reservations that are no longer needed.",
    "too_many_values": "Use fewer different values, or raise the limit's max_values.",
    "mirror_stale": "Run the daemon and look at its connection to the billing system.",
    "policy_stale": "Run the daemon, which renews policies before their periods end.",
}
