"""Snapshot → flags. One fixed set, values per customer; the same for every flag system.

`until` in the metadata is when a value ends by itself, `next` is the value that follows: so a consumer ends a stop or an
override on time even when nobody tells it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from spendgate.decide import refresh
from spendgate.reasons import rfc3339
from spendgate.snapshot import Snapshot

HARD_STOP: Final = "billing.hard-stop"
THROTTLE: Final = "billing.throttle"
PLAN: Final = "billing.plan"
MODELS: Final = "billing.models"
POLICY: Final = "billing.policy"
LIMIT_PREFIX: Final = "billing.limit."

FLAG_KEYS: Final = (HARD_STOP, THROTTLE, PLAN, MODELS, POLICY)
"""Every customer has these, and `billing.limit.<limit id>` for each limit of its policy."""

FlagValue = bool | str | int | dict[str, Any]
Reason = Literal["TARGETING_MATCH", "STATIC"]


class Flag(msgspec.Struct, frozen=True):
    """`reason` is TARGETING_MATCH for anything per customer, never STATIC: a client may cache a STATIC value for all.
    `metadata` is flat."""

    key: str
    value: FlagValue
    variant: str
    reason: Reason
    metadata: dict[str, str | int | bool]


def flags_of(snapshot: Snapshot, now_us: int | None = None) -> dict[str, Flag]:
    """All flags of one customer at `now_us` (None: when the snapshot was taken).

    A customer nobody knows gets the values of the document's default, with the reason STATIC.
    """
    at_us = snapshot.now_us if now_us is None else max(now_us, snapshot.now_us)
    standing = refresh(
        snapshot.policy, snapshot.state, snapshot.counters, snapshot.overrides, at_us, standing=snapshot.stored_standing
    )
    state = standing.state
    reason: Reason = "TARGETING_MATCH" if snapshot.known else "STATIC"
    denied = not snapshot.known and snapshot.policy.deny_unknown
    metadata = _metadata(snapshot, at_us)
    ends = {"until": rfc3339(standing.next_change_at_us)} if standing.next_change_at_us else {}
    following = (
        refresh(
            snapshot.policy,
            snapshot.state,
            snapshot.counters,
            snapshot.overrides,
            standing.next_change_at_us,
            standing=standing,
        ).state
        if standing.next_change_at_us
        else state
    )

    def switch(key: str, states: tuple[str, ...], *, forced: bool = False) -> Flag:
        on = forced or state in states
        then = forced or following in states
        own = metadata | ends | {"next": then} if then != on else metadata
        return Flag(key, on, "on" if on else "off", reason, own)

    plan = snapshot.state.plan if snapshot.state is not None and snapshot.known else snapshot.policy.plan
    models = list(snapshot.policy.models) if snapshot.policy.models is not None else ["*"]
    flags = [
        switch(HARD_STOP, ("stopped", "suspended"), forced=denied),
        switch(THROTTLE, ("throttled",)),
        Flag(PLAN, plan, plan, reason, metadata),
        Flag(MODELS, {"allowed": models}, plan, reason, metadata),
        Flag(POLICY, _policy(snapshot, state), snapshot.policy_digest[:8], reason, metadata),
    ]
    for line in snapshot.limits():
        limit = line.limit if line.limit is not None else line.cap
        if limit is not None:
            flags.append(Flag(f"{LIMIT_PREFIX}{line.id}", limit, line.id, reason, metadata | {"unit": line.unit}))
    return {flag.key: flag for flag in flags}


def _metadata(snapshot: Snapshot, at_us: int) -> dict[str, str | int | bool]:
    metadata: dict[str, str | int | bool] = {"asOf": rfc3339(snapshot.now_us), "stale": False}
    if snapshot.state is not None and snapshot.known:
        metadata |= {"policyVersion": snapshot.state.version, "source": snapshot.state.source}
    active = [override.id for override in snapshot.overrides if override.until_us > at_us]
    if active:
        metadata["overrideId"] = active[0]
    return metadata


def _policy(snapshot: Snapshot, state: str) -> dict[str, Any]:
    known = snapshot.state if snapshot.known else None
    return {
        "state": state,
        "status": known.status if known is not None else "unknown",
        "plan": known.plan if known is not None else snapshot.policy.plan,
        "version": known.version if known is not None else 0,
        "digest": snapshot.policy_digest,
        "remaining": {line.id: line.remaining for line in snapshot.limits() if line.remaining is not None},
    }
