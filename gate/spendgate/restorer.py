"""Restoring a partition of Redis that lost what it was told: degrade it, begin a new epoch, make its customers again, let it go.

While a partition is degraded, nothing is decided and nothing written in it but what is restored, and whoever asks follows the
rule for outages. Every step may be done again after a kill.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
import redis.asyncio

from spendgate.control import BACKLOG_MAX, DEGRADED, Control
from spendgate.keys import PARTITIONS, partition_of, tag_of
from spendgate.policy import EffectivePolicy
from spendgate.restored import Restored
from spendgate.script import NEW_EPOCH, RESTORE
from spendgate.state import OverrideSet, PolicyState
from spendgate.transports import own_errors

MOVED_AT_ONCE: Final = 500
"""Entries that one script moves to a new epoch."""


class Attempt(msgspec.Struct, frozen=True):
    """`moved`: there are later records than those that were added up. `sequence` is where the partition stands now."""

    status: Literal["restored", "moved"]
    sequence: int


async def degraded_partitions(client: redis.asyncio.Redis) -> dict[int, tuple[int, int]]:
    """See `Restorer.degraded`."""
    async with client.pipeline(transaction=False) as pipe:
        for partition in range(PARTITIONS):
            pipe.hmget(f"{tag_of(partition)}meta", ["full_at", "epoch", "seq"])
        metas = await pipe.execute()
    return {
        partition: (int(epoch), int(sequence))
        for partition, (full_at, epoch, sequence) in enumerate(metas)
        if full_at == DEGRADED
    }


class Restorer:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def degraded(self) -> dict[int, tuple[int, int]]:
        """Partitions that are degraded, with the epoch and sequence where each stands."""
        with own_errors():
            return await degraded_partitions(self._control.redis)

    async def degrade(self, partition: int) -> None:
        """From now on nobody writes there."""
        with own_errors():
            await self._control.redis.hset(f"{tag_of(partition)}meta", "full_at", DEGRADED)

    async def outbox_of(self, partition: int, after: str, count: int) -> list[tuple[str, bytes]]:
        """Entries after an id, in order: id and record."""
        with own_errors():
            entries: Any = await self._control.redis.xrange(f"{tag_of(partition)}outbox", f"({after}", "+", count)
        return [(stream_id.decode(), fields[b"r"]) for stream_id, fields in entries]

    async def begin_epoch(self, partition: int, common: str, epoch: int) -> int:
        """Begin an epoch of a degraded partition with the entries that came after `common`; how many there are. They get new
        ids."""
        while True:
            moved, sequence = await self._control.run(NEW_EPOCH, partition, [common, epoch, MOVED_AT_ONCE])
            if not moved:
                return int(sequence)

    async def restore(
        self,
        customer_id: str,
        place: tuple[int, int],
        restored: Restored,
        state: PolicyState | None,
        policy: EffectivePolicy,
        overrides: OverrideSet | None,
    ) -> Attempt:
        """Make a customer what `restored` says, if the partition stands at `place` (epoch, sequence). `policy` is the one in
        force; `state` None: nobody knows the customer. Policies that open reservations name are kept by
        `Control.keep_policies`."""
        status, sequence = await self._control.run(
            RESTORE,
            partition_of(customer_id),
            [
                customer_id,
                *place,
                state.encode() if state is not None else b"",
                policy.digest,
                policy.encode(),
                policy.rules(),
                overrides.encode() if overrides is not None else b"",
                *restored.arguments(),
            ],
        )
        return Attempt("restored" if status == b"restored" else "moved", int(sequence))

    async def release(self, partition: int, stored_sequence: int) -> None:
        """Let it decide again. `stored_sequence` is how far the store has it in its epoch."""
        with own_errors():
            await self._control.redis.hset(f"{tag_of(partition)}meta", "full_at", str(stored_sequence + BACKLOG_MAX))
