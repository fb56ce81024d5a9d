"""Who was denied wrongly: denials of before a repair, decided again with what reservations really held then.

What really was open at any moment is in the store: a reservation counts from its decision to its end, and one without an
end to its deadline and the plan's grace. Each denial is looked at alone, as if no other had been let pass instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from spendgate.errors import SpendgateError
from spendgate.event import UsageEvent
from spendgate.held import Place, place_of, reserved_of
from spendgate.limits import NOT_KEPT, Limit, OpenCounter
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record, verdict_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.decisions import StoredDecision
from spendgate_daemon.store.schema import decisions, not_allow

LOOK_BACK_US: Final = 31 * 86_400_000_000
"""A quota of a month can be wrong for as long."""

LONGEST_US: Final = 25 * 3_600_000_000
"""A reservation with its grace, whatever a plan says."""

DENIALS_MAX: Final = 1_000
RECORDS_MAX: Final = 20_000


class Hindsight(msgspec.Struct, frozen=True):
    """`wrong` are denials that `decide` allows with what was really reserved, oldest first; `counted` are further denials
    that were only counted, so nobody can decide them again; `without_end` are reservations that nobody ended and
    that were past their deadline at the repair: what the counters held, most likely; `looked_at` denials in all."""

    wrong: tuple[StoredDecision, ...]
    counted: int
    without_end: tuple[StoredDecision, ...]
    looked_at: int


class Open(msgspec.Struct):
    """A reservation as the store tells of it; `until_us` moves when it is extended."""

    decision: StoredDecision
    event: UsageEvent
    effective_at_us: int
    until_us: int
    policy: EffectivePolicy


def hindsight_of(store: Store, repair: StoredDecision) -> Hindsight:
    """Look back from a stored repair to the one before it, LOOK_BACK_US at most; at DENIALS_MAX denials at most."""
    repaired = decode_record(repair.record).repaired
    limit_ids = sorted({each.limit_id for each in repaired if each.limit_id and each.after < each.before})
    previous = store.decisions.previous_repair(repair)
    from_us = repair.at_us - LOOK_BACK_US if previous is None else max(previous.at_us, repair.at_us - LOOK_BACK_US)
    denied = store.decisions.of_customer(
        repair.customer_id,
        from_us,
        repair.position,
        not_allow,
        decisions.c.limit_id.in_(limit_ids),
        limit=DENIALS_MAX,
    )
    begun_us = min([each.at_us for each in denied], default=repair.at_us) - LONGEST_US
    reservations = store.decisions.of_customer(
        repair.customer_id,
        begun_us,
        repair.position,
        decisions.c.mode.not_in(("decide", "record", "settle")),
        decisions.c.outcome == "allow",
        limit=RECORDS_MAX,
    )
    history = _History(store)
    wrong = []
    for each in sorted([*denied, *reservations], key=lambda row: row.position):
        if each.outcome == "allow":
            history.follow(each)
        elif each.kind == "decision" and history.would_allow(each):
            wrong.append(each)
    return Hindsight(
        wrong=tuple(wrong),
        counted=sum(each.count for each in denied if each.kind == "denials"),
        without_end=tuple(held.decision for held in history.open.values() if held.until_us <= repair.at_us),
        looked_at=sum(each.kind == "decision" for each in denied),
    )


class _History:
    """Records of one customer in their order; `open` by event id."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._policies: dict[str, EffectivePolicy | None] = {}
        self.open: dict[str, Open] = {}

    def follow(self, row: StoredDecision) -> None:
        record = decode_record(row.record)
        facts, event = record.reservation, record.event
        policy = self._policy(row.policy_digest)
        if facts is None or event is None or policy is None:
            return
        if row.mode == "reserve":
            until_us = facts.deadline_us + policy.reservations.grace_us
            self.open[row.event_id] = Open(row, event, facts.effective_at_us, until_us, policy)
        elif row.mode == "extend":
            held = self.open.get(row.event_id)
            if held is not None:
                held.until_us = facts.deadline_us + held.policy.reservations.grace_us
        else:
            self.open.pop(row.event_id, None)

    def would_allow(self, row: StoredDecision) -> bool:
        policy, record = self._policy(row.policy_digest), decode_record(row.record)
        if policy is None or record.event is None:
            return False
        held = reserved_of(
            (each.event, each.effective_at_us, each.policy) for each in self.open.values() if each.until_us > row.at_us
        )
        counters = [
            _corrected(limit, raw, record.event, record.now_us, held)
            for limit, raw in zip(policy.limits, record.counters, strict=True)
        ]
        return _allowed(msgspec.structs.replace(record, counters=tuple(counters)), policy)

    def _policy(self, digest: str) -> EffectivePolicy | None:
        if digest not in self._policies:
            self._policies[digest] = self._store.policies.effective(digest)
        return self._policies[digest]


def _corrected(
    limit: Limit, raw: bytes | None, event: UsageEvent, at_us: int, held: Mapping[Place, int]
) -> bytes | None:
    """The counter as it was stored, holding no more than was open."""
    place = place_of(limit, event, at_us)
    if raw in (None, NOT_KEPT) or limit.Counter is None or place is None:
        return raw
    counter: Any = limit.Counter.decode(raw)
    reserved, name = getattr(counter, "reserved", 0), "open" if isinstance(counter, OpenCounter) else "reserved"
    surplus = reserved > held.get(place, 0)
    return msgspec.structs.replace(counter, **{name: held.get(place, 0)}).encode() if surplus else raw


def _allowed(record: Record, policy: EffectivePolicy) -> bool:
    try:
        return verdict_of(record, policy).outcome == "allow"
    except (SpendgateError, ValueError):
        return False  # of another engine, or what can't be decided at all: nothing says that it was denied wrongly
