"""Advice for gateways that read Redis, and what lists of customers show: both from one snapshot of a customer.

Touched customers are coalesced, so a busy customer costs one write a round, and served in the order of their first
touch, so nobody waits behind the busy ones. A customer who goes quiet is looked at again until the burn that is told of
him is over. Advice is advisory: the gate decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Final

from spendgate.client import Gate
from spendgate.control import Control
from spendgate.keys import advice_key, partition_of
from spendgate.limits.result import LimitResult
from spendgate.snapshot import Snapshot
from spendgate_daemon.relays.burn import BurnMeter, exhausts_at_us
from spendgate_daemon.relays.metrics import ADVISED
from spendgate_daemon.store import Store
from spendgate_daemon.store.customers import Burn, Observation, Tightest

BATCH: Final = 200
TOUCHED_MAX: Final = 200_000
LOOK_AGAIN_US: Final = 15_000_000
BURN_OLD_US: Final = 60_000_000

REPLACE_HASH: Final = "redis.call('DEL', KEYS[1]) return redis.call('HSET', KEYS[1], unpack(ARGV))"
"""A reader never meets half of it, and limits that are gone leave nothing behind."""


def _clock_us() -> int:
    return time.time_ns() // 1000


class Advice:
    """`touch` from anywhere on the loop; `run_once` writes. Beyond TOUCHED_MAX waiting customers new ones are left to
    their next touch. What lists show is left to whoever relays the customer's partition (`owned`, None is all): only
    there is the burn known."""

    def __init__(
        self,
        gate: Gate,
        control: Control,
        store: Store,
        burn: BurnMeter,
        now_us: Callable[[], int] = _clock_us,
        owned: Callable[[], Collection[int]] | None = None,
    ) -> None:
        self._owned = owned
        self._gate = gate
        self._control = control
        self._store = store
        self._burn = burn
        self._now_us = now_us
        self._touched: dict[str, None] = {}
        self._looked_again_us = 0

    def touch(self, customer_ids: set[str]) -> None:
        if len(self._touched) < TOUCHED_MAX:
            self._touched.update(dict.fromkeys(customer_ids))

    async def run_once(self) -> int:
        """Advise on at most BATCH touched customers; how many. Those of a round that fails are touched still."""
        await self._look_again()
        batch = list(islice(self._touched, BATCH))
        if not batch:
            return 0
        for customer_id in batch:
            del self._touched[customer_id]  # before the reading: a touch from now on asks for another
        try:
            await self._advise(batch)
        except BaseException:
            self._touched = dict.fromkeys(batch) | self._touched
            raise
        return len(batch)

    async def _look_again(self) -> None:
        now_us = self._now_us()
        if now_us - self._looked_again_us < LOOK_AGAIN_US:
            return
        self._looked_again_us = now_us
        old = await asyncio.to_thread(self._store.customers.with_old_burn, now_us - BURN_OLD_US, BATCH)
        self.touch({customer_id for customer_id in old if self._owns(customer_id)})

    def _owns(self, customer_id: str) -> bool:
        return self._owned is None or partition_of(customer_id) in self._owned()

    async def _advise(self, customer_ids: list[str]) -> None:
        known = [snapshot for snapshot in await self._gate.snapshots(customer_ids) if snapshot.known]
        async with self._control.redis.pipeline(transaction=False) as pipe:
            for snapshot in known:
                fields = [part for field in advice_of(snapshot).items() for part in field]
                pipe.eval(REPLACE_HASH, 1, advice_key(snapshot.customer_id), *fields)
            await pipe.execute()
        observations = [self._observation(snapshot) for snapshot in known if self._owns(snapshot.customer_id)]
        if observations:
            await asyncio.to_thread(self._store.customers.observe, observations)
        ADVISED.inc(len(known))

    def _observation(self, snapshot: Snapshot) -> Observation:
        lines = [line for line in snapshot.limits() if line.kind in ("quota", "credits")]
        standing, now_us = snapshot.standing, snapshot.now_us
        ends, burns = [], []
        for line in lines:
            self._burn.observe(snapshot.customer_id, line, now_us)
            per_hour = self._burn.per_hour(snapshot.customer_id, line, now_us)
            end = exhausts_at_us(line, per_hour, now_us)
            ends += [end] if end is not None else []
            if per_hour and line.kind == "quota":
                burns.append((per_hour, line))
        top = max(burns, key=lambda pair: pair[0], default=None)
        return Observation(
            customer_id=snapshot.customer_id,
            state=standing.state,
            until_us=standing.next_change_at_us if standing.state != "ok" else 0,
            tightest=_tightest(lines),
            burn=Burn(" + ".join(top[1].meters), top[1].unit, top[0]) if top is not None else None,
            exhausts_at_us=min(ends, default=None) if standing.state in ("ok", "throttled") else None,
            observed_at_us=now_us,
        )


def advice_of(snapshot: Snapshot) -> dict[str, str | int]:
    """`state`, `until` (Unix seconds, 0: does not end by itself), `remaining.<limit>`, `rate.<limit>` (units free now),
    and `remaining_tokens`, the least that is left of any token limit."""
    standing = snapshot.standing
    fields: dict[str, str | int] = {
        "state": standing.state,
        "until": standing.next_change_at_us // 1_000_000 if standing.state != "ok" else 0,
    }
    tokens: list[int] = []
    for line in snapshot.limits():
        if line.kind == "rate":
            fields[f"rate.{line.id}"] = line.remaining or 0
        elif line.kind in ("quota", "credits") and line.remaining is not None:
            fields[f"remaining.{line.id}"] = line.remaining
            if line.unit == "token" and line.mode == "enforce":
                tokens.append(line.remaining)
    if tokens:
        fields["remaining_tokens"] = min(tokens)
    return fields


def _tightest(lines: Sequence[LimitResult]) -> Tightest | None:
    """The limit with the largest used share of what it allows; a billed quota is measured at its included amount."""
    best: tuple[float, Tightest] | None = None
    for line in lines:
        limit = line.limit if line.limit is not None else line.cap
        if limit is None or line.mode != "enforce":
            continue
        used = line.used + line.external
        share = used / limit if limit else 1.0
        if best is None or share > best[0]:
            best = (share, Tightest(line.id, line.unit, used, limit))
    return best[1] if best is not None else None
