"""Everything in Redis, made again from the store after a total loss, partition by partition.

Each partition decides again as soon as its customers are restored. It may be stopped and started again at any moment.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import msgspec

from spendgate.control import Control
from spendgate.errors import SpendgateError
from spendgate.keys import partition_of
from spendgate.restorer import Restorer
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, place_of
from spendgate_daemon.restore.customers import CustomerRestore
from spendgate_daemon.restore.metrics import RESTORED
from spendgate_daemon.restore.tails import TAIL_PREFIX
from spendgate_daemon.store import Store

PARTITIONS_AT_ONCE: Final = 4


class RebuildRaced(SpendgateError):
    """Somebody else restores the same partition."""


class Progress(msgspec.Struct, frozen=True):
    """Customers and partitions, done and in all."""

    customers_done: int
    customers: int
    partitions_done: int
    partitions: int


class Rebuild:
    """`tell` hears of each customer and partition that is done."""

    def __init__(
        self,
        control: Control,
        store: Store,
        now_us: Callable[[], int],
        tell: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._control = control
        self._store = store
        self._restorer = Restorer(control)
        self._customers = CustomerRestore(control, store, now_us)
        self._tell = tell
        self._done = Progress(0, 0, 0, 0)

    async def run(self) -> Progress:
        """Restore every partition that is degraded, but those with a lost tail, which the daemon mends by itself. Raises
        RebuildRaced."""
        degraded = await self._restorer.degraded()
        tails = await asyncio.to_thread(self._store.cursors.starting_with, TAIL_PREFIX)
        waiting = {p: place for p, place in degraded.items() if f"{TAIL_PREFIX}{p:03d}" not in tails}
        customers = await asyncio.to_thread(self._by_partition)
        number = sum(len(customers[partition]) for partition in waiting)
        self._note(Progress(0, number, 0, len(waiting)))
        turns = asyncio.Semaphore(PARTITIONS_AT_ONCE)

        async def one(partition: int, place: tuple[int, int]) -> None:
            async with turns:
                await self._partition(partition, place, customers[partition])

        try:
            async with asyncio.TaskGroup() as group:
                for partition, place in waiting.items():
                    group.create_task(one(partition, place))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return self._done

    def _by_partition(self) -> dict[int, list[str]]:
        known = {customer.customer_id for customer in self._store.customers.all_known()}
        customers: dict[int, list[str]] = defaultdict(list)
        for customer_id in sorted(known | set(self._store.decisions.customers())):
            customers[partition_of(customer_id)].append(customer_id)
        return customers

    async def _partition(self, partition: int, place: tuple[int, int], customers: list[str]) -> None:
        epoch, sequence = place
        for customer_id in customers:
            done = await self._customers.restore(customer_id, (epoch, sequence))
            if done.status == "moved":
                raise RebuildRaced("another rebuild is at work in the same Redis")
            sequence = done.sequence
            RESTORED.labels("rebuild").inc()
            self._note(msgspec.structs.replace(self._done, customers_done=self._done.customers_done + 1))
        cursor = await asyncio.to_thread(self._store.cursors.get, f"{CURSOR_PREFIX}{partition:03d}")
        stored_epoch, stored = place_of(cursor or "0-0")
        await self._restorer.release(partition, stored if stored_epoch == epoch else 0)
        for customer_id in customers:
            await self._control.repair_reserved(customer_id)
        self._note(msgspec.structs.replace(self._done, partitions_done=self._done.partitions_done + 1))

    def _note(self, progress: Progress) -> None:
        self._done = progress
        self._tell(progress)
