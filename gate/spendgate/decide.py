"""`decide`: what the gate means. Pure, total over validated input, and the definition of the Redis script.

Order: customer status, override, model rule, limits. Every limit is checked and appears in the result; one failing
limit denies; `stop` beats `throttle`; nothing is debited unless all pass. (That an `event_id` allowed before
gets the same answer again is the script's first step: it is memory, not judgement.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from spendgate.errors import InvalidEvent, UnknownMeter
from spendgate.event import UsageEvent
from spendgate.limits import NOT_KEPT, Concurrency, Counters, Limit, counter_field, speaks_of_all
from spendgate.limits.check import STALE_RETRY_US, Check, Context, amount_of, applies, matches, text_of
from spendgate.limits.result import LimitResult
from spendgate.policy import EffectivePolicy
from spendgate.state import THROTTLED_FOR_US, CustomerState, Override, PolicyState, Standing

Outcome = Literal["allow", "throttle", "stop"]
Mode = Literal["decide", "reserve", "record"]
"""`reserve` holds the quantities until it is known what was really used; `record` states what already happened: it is
debited, may go over, and is never denied."""


class Verdict(msgspec.Struct, frozen=True):
    """What `decide` found. `limit_id` is the deciding limit, None when none decided; `crossed` lists
    (limit id, threshold name); `counters` holds the new value of each counter that the event debits;
    `retry_after_us` 0 means that waiting does not help."""

    outcome: Outcome
    reason: str
    limit_id: str | None
    override_id: str | None
    retry_after_us: int
    limits: tuple[LimitResult, ...]
    counters: Counters
    crossed: tuple[tuple[str, str], ...]
    state_before: CustomerState
    standing: Standing


def decide(
    policy: EffectivePolicy,
    state: PolicyState | None,
    counters: Counters,
    overrides: Sequence[Override],
    event: UsageEvent,
    now_us: int,
    *,
    standing: Standing | None = None,
    mode: Mode = "decide",
    mirrored_at_us: int = 0,
    lifetime_us: int = 0,
) -> Verdict:
    """Decide one event at `now_us` (Unix microseconds). `mirrored_at_us` is when the mirror last compared policy state
    with its source (0: there is no mirror); `lifetime_us` is what a reservation asks for (0: what the plan gives).

    `state` None is a customer nobody knows: `policy` is then the document's policy for unknown customers.
    Of a limit with `per`, `counters` holds the counter of the event's own value. Raises UnknownMeter and InvalidEvent, in
    which case nothing may be written.
    """
    for meter in sorted(event.quantities):
        if meter not in policy.meters:
            raise UnknownMeter("meter" if len(event.quantities) == 1 else f"quantities.{meter}", meter)
    standing = standing or Standing()
    reserving = mode == "reserve"
    deadline_us = now_us + _lifetime_us(policy, lifetime_us) if reserving else 0
    stale_mirror_us = mirrored_at_us if policy.finds_too_old(mirrored_at_us, now_us) else 0
    context = context_of(state, now_us, reserving=reserving, stale_mirror_us=stale_mirror_us)
    checks = [check_limit(limit, event, counters.get(counter_field(limit)), context) for limit in policy.limits]
    active = [override for override in overrides if override.until_us > now_us]

    outcome, reason, limit_id, override_id = _judge_customer(policy, state, active, event)
    if outcome == "allow":
        outcome, reason, limit_id = _judge_limits(checks)
        passing = _let_pass(outcome, checks, active, event, standing)
        if passing is not None:
            outcome, reason, override_id = "allow", "allowed_by_override", passing.id
    if mode == "record":
        outcome, reason, limit_id, override_id = "allow", "recorded", None, None

    allowed = outcome == "allow"
    debits = {
        counter_field(limit): check.counter
        for limit, check in zip(policy.limits, checks, strict=True)
        if allowed and check.counter is not None
    }
    crossed = tuple((c.result.id, name) for c in checks if allowed for name in c.crossed)
    bypassed_by = override_id if reason == "allowed_by_override" else None
    ends_at_us = standing.reservations_end_us
    if reserving and allowed:
        end_us = deadline_us + policy.reservations.grace_us
        ends_at_us = min(ends_at_us or end_us, end_us)
    rate_denied = not allowed and any(c.reason == "rate_exceeded" and c.result.denies for c in checks)
    after = _next_standing(
        policy,
        state,
        {**counters, **debits},
        active,
        context,
        standing=msgspec.structs.replace(
            standing,
            throttled_until_us=now_us + THROTTLED_FOR_US if rate_denied else standing.throttled_until_us,
            override_units=_units_let_through(overrides, standing, bypassed_by, event.units),
            reservations_end_us=ends_at_us,
        ),
    )
    return Verdict(
        outcome=outcome,
        reason=reason,
        limit_id=limit_id,
        override_id=override_id,
        retry_after_us=_retry_after_us(outcome, checks),
        limits=tuple(_line_after(c, allowed=allowed, bypassed=bypassed_by is not None) for c in checks),
        counters=debits,
        crossed=crossed,
        state_before=standing.state,
        standing=after,
    )


def refresh(
    policy: EffectivePolicy,
    state: PolicyState | None,
    counters: Counters,
    overrides: Sequence[Override],
    now_us: int,
    *,
    standing: Standing | None = None,
) -> Standing:
    """The standing at `now_us` when nothing was asked: after a policy change, an override, a reset or an expiry."""
    standing = standing or Standing()
    active = [override for override in overrides if override.until_us > now_us]
    context = context_of(state, now_us)
    kept = msgspec.structs.replace(standing, override_units=_units_let_through(overrides, standing, None, 0))
    return _next_standing(policy, state, counters, active, context, standing=kept)


def context_of(state: PolicyState | None, now_us: int, *, reserving: bool = False, stale_mirror_us: int = 0) -> Context:
    """What the limits of a customer get to see at an instant."""
    granted = state.granted_micro_credits if state is not None else None
    return Context(now_us, granted, state.grants if state is not None else (), reserving, stale_mirror_us)


def check_limit(limit: Limit, event: UsageEvent, stored: Any, context: Context) -> Check:
    """One limit against one event that may not be its concern."""
    concerned = applies(limit.match, event)
    # What reserves nothing isn't counted as open, so it can't be one value too many.
    counted = context.reserving or not isinstance(limit, Concurrency)
    full = concerned and counted and stored == NOT_KEPT
    asked = event if concerned and not full else msgspec.structs.replace(event, quantities={})
    check = limit.check(asked, None if stored == NOT_KEPT else stored, context)
    value = text_of(event.metadata.get(limit.per)) or "" if limit.per is not None and concerned else None
    line = msgspec.structs.replace(check.result, match=limit.match, per=limit.per, per_value=value)
    if not full:
        return msgspec.structs.replace(check, result=line)
    resets_us = line.period_end_seconds * 1_000_000 - context.now_us if line.period_end_seconds else STALE_RETRY_US
    amount = amount_of(event, limit.meters)
    denied = msgspec.structs.replace(line, result="deny", amount=amount, retry_after_us=resets_us)
    return Check(denied, reason="too_many_values")


def _lifetime_us(policy: EffectivePolicy, asked_us: int) -> int:
    terms = policy.reservations
    if asked_us > terms.max_lifetime_us:
        raise InvalidEvent("lifetime_seconds", f"at most {terms.max_lifetime_us // 1_000_000}, as the plan says")
    return asked_us or terms.lifetime_us


def _judge_customer(
    policy: EffectivePolicy, state: PolicyState | None, active: Sequence[Override], event: UsageEvent
) -> tuple[Outcome, str, str | None, str | None]:
    if state is None or state.status == "unknown":
        if policy.deny_unknown:
            return "stop", "unknown_customer", None, None
    elif state.status == "suspended":
        return "stop", "customer_suspended", None, None
    elif state.status == "cancelled":
        return "stop", "customer_cancelled", None, None
    for override in active:
        if override.kind == "stop":
            return "stop", "override_stop", None, override.id
    if policy.models is not None and event.model is not None:
        if not any(matches(pattern, event.model) for pattern in policy.models):
            return "stop", "model_not_allowed", None, None
    return "allow", "allowed", None, None


def _judge_limits(checks: Sequence[Check]) -> tuple[Outcome, str, str | None]:
    """The first limit that stops decides; otherwise the throttle that lasts longest, the first among equals."""
    throttle: Check | None = None
    for check in checks:
        if not check.result.denies:
            continue
        if check.result.when_exceeded == "stop":
            return "stop", check.reason, check.result.id
        if throttle is None or check.result.retry_after_us > throttle.result.retry_after_us:
            throttle = check
    if throttle is not None:
        return "throttle", throttle.reason, throttle.result.id
    return "allow", "allowed", None


def _let_pass(
    outcome: Outcome, checks: Sequence[Check], active: Sequence[Override], event: UsageEvent, standing: Standing
) -> Override | None:
    """The first override that covers every denying limit and has room for the whole event. A limit that can't be
    debited (a missing weight, an exhausted table) is not a matter of allowance and can't be bypassed."""
    if outcome == "allow":
        return None
    denying = [check for check in checks if check.result.denies]
    if any(check.reason in _UNCOUNTABLE for check in denying):
        return None
    for override in active:
        if override.kind == "let_pass" and all(_covers(override, check.result.id) for check in denying):
            if standing.units_let_through(override.id) + event.units <= override.max_units:
                return override
    return None


def _covers(override: Override, limit_id: str) -> bool:
    return "*" in override.bypass or limit_id in override.bypass


def _units_let_through(
    overrides: Sequence[Override], standing: Standing, used_id: str | None, units: int
) -> tuple[tuple[str, int], ...]:
    """Units per override that still exists, in the overrides' order, zeros left out."""
    counted = []
    for override in overrides:
        total = standing.units_let_through(override.id) + (units if override.id == used_id else 0)
        if total:
            counted.append((override.id, total))
    return tuple(counted)


def _next_standing(
    policy: EffectivePolicy,
    state: PolicyState | None,
    counters: Counters,
    active: Sequence[Override],
    context: Context,
    *,
    standing: Standing,
) -> Standing:
    """State and the moment it changes by itself. `suspended` beats `stopped` beats `throttled`."""
    now_us = context.now_us
    changes = [override.until_us for override in active]
    stopped = any(override.kind == "stop" for override in active)
    throttled = standing.throttled_until_us > now_us
    if throttled:
        changes.append(standing.throttled_until_us)
    passing = [
        override
        for override in active
        if override.kind == "let_pass" and standing.units_let_through(override.id) < override.max_units
    ]
    for limit in policy.limits:
        if limit.mode != "enforce" or not speaks_of_all(limit):
            continue
        change_us = limit.changes_at_us(context)
        if change_us:
            changes.append(change_us)
        exhaustion = limit.exhaustion(counters.get(counter_field(limit)), context)
        if exhaustion is None:
            continue
        if exhaustion.until_us:
            changes.append(exhaustion.until_us)
        if any(_covers(override, limit.id) for override in passing):
            continue
        if limit.when_exceeded == "stop":
            stopped = True
        else:
            throttled = True
    name: CustomerState = "stopped" if stopped else "throttled" if throttled else "ok"
    if state is not None and state.status in ("suspended", "cancelled"):
        name, changes = "suspended", []
    return msgspec.structs.replace(
        standing,
        state=name,
        next_change_at_us=min(changes, default=0),
        version=standing.version + (1 if name != standing.state else 0),
    )


def _retry_after_us(outcome: Outcome, checks: Sequence[Check]) -> int:
    if outcome != "throttle":
        return 0
    return max(check.result.retry_after_us for check in checks if check.result.denies)


def _line_after(check: Check, *, allowed: bool, bypassed: bool) -> LimitResult:
    """The trace's line, with what remains after the decision and whether an override let this limit pass."""
    line = check.result
    if allowed and check.counter is not None and line.remaining is not None:
        remaining = line.remaining - line.amount
        line = msgspec.structs.replace(line, remaining=remaining if line.kind == "credits" else max(0, remaining))
    if bypassed and line.denies:
        line = msgspec.structs.replace(line, bypassed=True)
    return line


_UNCOUNTABLE: Final = frozenset({"model_without_weight", "policy_stale", "too_many_values"})
