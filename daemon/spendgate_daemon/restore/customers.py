"""One customer, as the store's records, contract and overrides have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from spendgate.control import IDEMPOTENCY_WINDOW_US, Control
from spendgate.errors import NotPrepared
from spendgate.keys import partition_of, stream_id_of
from spendgate.policy import EffectivePolicy
from spendgate.record import decode_record
from spendgate.reservation import OpenEntry
from spendgate.restored import Restored, Tally, Told
from spendgate.restorer import Attempt, Restorer
from spendgate.state import OverrideSet, PolicyState
from spendgate_daemon.mirror.apply import policy_state_of
from spendgate_daemon.overrides import overrides_in_force
from spendgate_daemon.store import Store
from spendgate_daemon.store.decisions import StoredDecision

PAGE: Final = 200
OPEN_WITHIN_US: Final = 26 * 3_600_000_000
"""No reservation lives longer than a day, with its grace."""

OPEN_MAX: Final = 100_000


class Everything(msgspec.Struct, frozen=True):
    """Of one customer. `policy` is in force; `honoured` are those that open reservations were given under; `state` None:
    nobody knows the customer; `overrides` None: there never were any."""

    restored: Restored
    state: PolicyState | None
    policy: EffectivePolicy
    honoured: tuple[EffectivePolicy, ...]
    overrides: OverrideSet | None


class CustomerRestore:
    def __init__(self, control: Control, store: Store, now_us: Callable[[], int]) -> None:
        self._restorer = Restorer(control)
        self._control = control
        self._store = store
        self._now_us = now_us

    async def restore(self, customer_id: str, place: tuple[int, int], *, carried_epoch: int | None = None) -> Attempt:
        """Make the customer in Redis again, if its partition stands at `place`; then compare its reservations. Records of
        `carried_epoch` were made by a Redis that had lost a tail."""
        read = await asyncio.to_thread(self.read, customer_id, carried_epoch)
        if read is None:
            return Attempt("restored", place[1])
        await self._control.keep_policies(partition_of(customer_id), read.honoured)
        return await self._restorer.restore(customer_id, place, read.restored, read.state, read.policy, read.overrides)

    def read(self, customer_id: str, carried_epoch: int | None = None) -> Everything | None:
        """What the store knows; None when that is nothing."""
        now_us = self._now_us()
        known = self._store.customers.get(customer_id)
        first = self._store.decisions.newest_first(customer_id, None, 1)
        digest = known.customer.policy_digest if known is not None else first[0].policy_digest if first else None
        if digest is None:
            return None
        policy = self._policy(digest)
        # The sweep begins a generation of memory when the last one is a window old: two of them are remembered.
        tally = Tally(policy, now_us, now_us - 2 * IDEMPOTENCY_WINDOW_US)
        self._add_up(tally, customer_id, carried_epoch)
        open_now = list(self._open(customer_id, now_us))
        overrides = overrides_in_force(self._store, customer_id, now_us)
        return Everything(
            restored=tally.result(open_now),
            state=policy_state_of(known.customer) if known is not None else None,
            policy=policy,
            honoured=tuple({each.digest: each for _, each in open_now}.values()),
            overrides=overrides if overrides.version else None,
        )

    def _add_up(self, tally: Tally, customer_id: str, carried_epoch: int | None) -> None:
        trusted = carried_epoch is None
        for stored in self._newest_first(customer_id):
            if not tally.wants(stored.at_us) and trusted:
                break
            told = self._told(stored)
            trusted = trusted or epoch_of(told) != carried_epoch or told.record.kind == "restored"
            if trusted:
                tally.take(told)
            else:
                tally.add(told)
        else:
            return  # there are no more
        if tally.missing:
            for stored in self._store.decisions.newest_by_policy(customer_id):
                told = self._told(stored)
                if epoch_of(told) != carried_epoch:
                    tally.look_up(told)

    def _newest_first(self, customer_id: str) -> Iterator[StoredDecision]:
        last: StoredDecision | None = None
        while True:
            page = self._store.decisions.newest_first(customer_id, last, PAGE)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1]

    def _open(self, customer_id: str, now_us: int) -> Iterator[tuple[OpenEntry, EffectivePolicy]]:
        unended = self._store.decisions.unended(now_us - OPEN_WITHIN_US, now_us, OPEN_MAX, customer_id=customer_id)
        for stored in unended:
            told = self._told(stored)
            extension = self._store.decisions.last_extension(stored)
            facts = (self._told(extension) if extension is not None else told).record.reservation
            event = told.record.event
            if facts is not None and event is not None:
                policy = told.policy
                yield (
                    OpenEntry(told.stream_id, facts.effective_at_us, facts.deadline_us, policy.digest, event),
                    policy,
                )

    def _told(self, stored: StoredDecision) -> Told:
        record = decode_record(stored.record)
        return Told(stream_id_of(stored.decision_id) or "", record, self._policy(record.policy))

    def _policy(self, digest: str) -> EffectivePolicy:
        policy = self._store.policies.effective(digest)
        if policy is None:
            raise NotPrepared(f"the store has no policy {digest}")
        return policy


def epoch_of(told: Told) -> int:
    return int(told.stream_id.split("-")[0])
