"""Redis as the gate uses it, in memory: the scripts in Python, step by step, built on the pure definitions.

It is the fake that users test with, and the model that the property test holds the Lua scripts against. Keys, expiry and
Redis Cluster are Redis' matter; everything that an answer depends on is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from spendgate.decide import refresh
from spendgate.errors import InvalidEvent, TooLarge, UnknownMeter
from spendgate.event import MAX_QUANTITY, UsageEvent
from spendgate.keys import partition_of, tag_of
from spendgate.limits import Counters, counter_field
from spendgate.policy import ENGINE_VERSION, EffectivePolicy, decode_policy
from spendgate.record import Record, Result
from spendgate.reservation import Facts
from spendgate.script import Script
from spendgate.state import DENIALS_KEPT, Standing
from spendgate.testing.stored import Customer
from spendgate.transports import Argument

EPOCH: Final = 1_790_000_000_000

Play = Callable[..., Any]
"""A script in Python: takes the memory and the arguments as bytes, gives what Redis would answer."""


class Refused(Exception):
    """A script's refusal: nothing was written by the step that refused."""

    def __init__(self, code: str, subject: str | int = "") -> None:
        super().__init__(code, subject)
        self.code, self.subject = code, str(subject)


class MemoryRedis:
    """One installation in memory. `clock` gives Unix microseconds; `plays` are the scripts it knows, by name."""

    def __init__(self, clock: Callable[[], int], plays: Mapping[str, Play]) -> None:
        self.clock = clock
        self.customers: dict[str, Customer] = {}
        self.policies: dict[str, bytes] = {}
        self.default: str | None = None
        self.mirrored_at_us = 0
        self.generation = 1
        self.epoch = EPOCH
        self.outage_slots = 8
        self.slots: dict[int, tuple[bytes, int, int]] = {}
        self.settled: dict[tuple[str, bytes], int] = {}
        self.full_at = 10**9
        """No partition decides anything once it has as many entries."""
        self.outbox: dict[str, list[tuple[str, bytes]]] = {}
        self._plays = plays

    def run(self, script: Script, arguments: Sequence[Argument]) -> Any:
        """What Redis would answer. Raises KeyError for a script that it does not know."""
        given = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
        try:
            return self._plays[script.name](self, *given)
        except Refused as refused:
            return [b"error", refused.code.encode(), refused.subject.encode()]

    def get(self, key: str) -> bytes | None:
        """Policies are all that is ever read by key."""
        return self.policies.get(key.rpartition(":")[2])

    def customer(self, customer_id: str) -> Customer:
        """A customer that is kept from now on."""
        return self.customers.setdefault(customer_id, Customer(customer_id))

    def look_up(self, customer_id: str) -> Customer:
        """A customer, or one that knows nothing yet and is not kept."""
        return self.customers.get(customer_id) or Customer(customer_id)

    def policy_in_force(self, customer: Customer) -> tuple[EffectivePolicy, str]:
        digest = customer.state.policy if customer.known and customer.state is not None else self.default
        if digest is None or digest not in self.policies:
            raise Refused("no_policy", digest or "")
        return decode_policy(self.policies[digest]), digest

    def policy_of(self, customer: Customer, digest: str) -> tuple[EffectivePolicy, str]:
        """The policy of a reservation; where it is gone, the one in force."""
        if digest in self.policies:
            return decode_policy(self.policies[digest]), digest
        return self.policy_in_force(customer)

    def check_backlog(self, customer: Customer) -> None:
        """Raises Refused where the store is too far behind."""
        if len(self.outbox.get(tag_of(partition_of(customer.id)), [])) >= self.full_at:
            raise Refused("backlog_full")

    def append(self, customer: Customer, record: Record) -> str:
        """Into the outbox; the new entry's id."""
        entries = self.outbox.setdefault(tag_of(partition_of(customer.id)), [])
        stream_id = f"{self.epoch}-{len(entries) + 1}"
        entries.append((stream_id, msgspec.msgpack.encode(record)))
        return stream_id

    def entry(self, customer: Customer, stream_id: str) -> bytes | None:
        """What stands there in the outbox; None for nothing."""
        return dict(self.outbox.get(tag_of(partition_of(customer.id)), [])).get(stream_id)

    def record(
        self,
        customer: Customer,
        policy: EffectivePolicy,
        digest: str,
        counters: Counters,
        kind: str,
        mode: str,
        result: Result,
        event: UsageEvent | None = None,
        facts: Facts | None = None,
    ) -> Record:
        stored = [counters.get(counter_field(limit)) for limit in policy.limits]
        return Record(
            engine=ENGINE_VERSION,
            kind=kind,  # type: ignore[arg-type]
            now_us=self.clock(),
            mode=mode,  # type: ignore[arg-type]
            customer_id=customer.id,
            policy=digest,
            mirrored_at_us=self.mirrored_at_us,
            event=event,
            state=customer.state,
            counters=tuple(each if each is None or isinstance(each, bytes) else each.encode() for each in stored),
            standing_before=customer.standing_stored.encode() if customer.standing_stored is not None else None,
            override_set=customer.override_set,
            result=result,
            reservation=facts,
        )

    def restand(self, customer: Customer, *, changed: bool = False, ends_us: int | None = None) -> None:
        """Recompute the standing when nothing was asked. `ends_us` None: reservations did not change."""
        now_us = self.clock()
        policy, digest = self.policy_in_force(customer)
        counters = customer.find_counters(policy, None, now_us, now_us)
        before = customer.standing
        base = before if ends_us is None else msgspec.structs.replace(before, reservations_end_us=ends_us)
        overrides = customer.override_set.overrides if customer.override_set is not None else ()
        after = refresh(policy, customer.state, counters, overrides, now_us, standing=base)
        if changed and after.version == before.version:
            after = msgspec.structs.replace(after, version=before.version + 1)
        after = self.flush_denials(customer, policy, digest, counters, after)
        if after.state != before.state:
            result = Result("allow", "standing", "", "", after.state, (), 1)
            self.append(customer, self.record(customer, policy, digest, counters, "standing", "decide", result))
        customer.standing_stored = after

    def flush_denials(
        self, customer: Customer, policy: EffectivePolicy, digest: str, counters: Counters, standing: Standing
    ) -> Standing:
        """Tell denials that were only counted, once their second is over."""
        second, kept = self.clock() // 1_000_000, []
        for rule, counted_second, count, stream_id, outcome in standing.denials:
            if counted_second == second:
                kept.append((rule, counted_second, count, stream_id, outcome))
            elif count > DENIALS_KEPT:
                reason, _, limit_id = rule.partition("|")
                result = Result(outcome, reason, limit_id, "", standing.state, (), count - DENIALS_KEPT)  # type: ignore[arg-type]
                self.append(customer, self.record(customer, policy, digest, counters, "denials", "decide", result))
        return msgspec.structs.replace(standing, denials=tuple(kept))


def recall(memory: dict[tuple[int, bytes], Any], generation: int, identity: bytes) -> Any:
    """What is remembered in this generation or the last; None when nothing is."""
    return memory.get((generation, identity)) or memory.get((generation - 1, identity))


def validate(quantities: dict[str, int], policy: EffectivePolicy, least: int) -> None:
    """What the scripts check of an event again. Raises Refused."""
    for quantity in quantities.values():
        if not least <= quantity <= MAX_QUANTITY:
            raise Refused("invalid_quantity")
    unknown = sorted(meter for meter in quantities if meter not in policy.meters)
    if unknown:
        raise Refused("unknown_meter", unknown[0])


def refused(exc: InvalidEvent) -> Refused:
    """The script's word for what the definition can't decide."""
    if isinstance(exc, UnknownMeter):
        return Refused("unknown_meter", exc.meter)
    if exc.field.startswith("metadata."):
        return Refused("metadata_not_a_number", exc.field.removeprefix("metadata."))
    if isinstance(exc, TooLarge):
        return Refused(exc.code, exc.limit_id)
    raise exc
