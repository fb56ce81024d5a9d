"""`decide`: what the gate means. Pure, total over validated input, and the definition of the Redis script.

Order: customer status, override, model rule, limits. Every limit is checked and appears in the result; one failing
limit denies; `stop` beats `throttle`; nothing is debited unless all pass. (That an `event_id` allowed before
gets the same answer again is the script's first step: it is memory, not judgement.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from spendgate.errors import UnknownMeter
from spendgate.event import UsageEvent
from spendgate.limits import counter_field
from spendgate.limits.check import Check, Context, matches
from spendgate.limits.result import LimitResult
from spendgate.policy import EffectivePolicy
from spendgate.state import THROTTLED_FOR_US, CustomerState, Override, PolicyState, Standing

Outcome = Literal["allow", "throttle", "stop"]
Mode = Literal["decide", "record"]
"""`record` states what already happened: it is debited, may go over, and is never denied."""


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
    counters: dict[str, Any]
    crossed: tuple[tuple[str, str], ...]
    state_before: CustomerState
    standing: Standing


def decide(
    policy: EffectivePolicy,
    state: PolicyState | None,
    counters: Mapping[str, Any],
    overrides: Sequence[Override],
    event: UsageEvent,
    now_us: int,
    *,
    standing: Standing | None = None,
    mode: Mode = "decide",
) -> Verdict:
    """Decide one event at `now_us` (Unix microseconds).

    `state` None is a customer nobody knows: `policy` is then the document's policy for unknown customers.
    `counters` maps counter fields to stored values; absent means never used. Raises UnknownMeter and InvalidEvent,
    in which case nothing may be written.
    """
    for meter in sorted(event.quantities):
        if meter not in policy.meters:
            raise UnknownMeter("meter" if len(event.quantities) == 1 else f"quantities.{meter}", meter)
    standing = standing or Standing()
    context = Context(now_us, state.granted_micro_credits if state is not None else None)
    checks = [limit.check(event, counters.get(counter_field(limit)), context) for limit in policy.limits]
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
    counters: Mapping[str, Any],
    overrides: Sequence[Override],
    now_us: int,
    *,
    standing: Standing | None = None,
) -> Standing:
    """The standing at `now_us` when nothing was asked: after a policy change, an override, a reset or an expiry."""
    standing = standing or Standing()
    active = [override for override in overrides if override.until_us > now_us]
    context = Context(now_us, state.granted_micro_credits if state is not None else None)
    kept = msgspec.structs.replace(standing, override_units=_units_let_through(overrides, standing, None, 0))
    return _next_standing(policy, state, counters, active, context, standing=kept)


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
    if any(check.reason in ("model_without_weight", "policy_stale") for check in denying):
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
    counters: Mapping[str, Any],
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
        exhaustion = None
        if limit.mode == "enforce":
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
