"""Loss of a tail: Redis forgot decisions that the store has, as after a failover. It is found and mended by itself.

The partition is degraded, so that whoever asks follows the rule for outages; what was decided since the loss moves to a new
epoch, because its ids are those of other decisions in the store; once the store has that, the customers of the lost
decisions are restored, and the partition decides again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from spendgate.control import Control
from spendgate.errors import SpendgateError
from spendgate.keys import decision_id_of, stream_id_of
from spendgate.restorer import Restorer
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, StoreRelay, place_of
from spendgate_daemon.restore.customers import CustomerRestore
from spendgate_daemon.restore.metrics import RESTORED
from spendgate_daemon.store import Store

TAIL_PREFIX: Final = "lost-tail."
COMPARED_AT_ONCE: Final = 500

_log = structlog.get_logger("spendgate.restore.tails")


class Tail(msgspec.Struct, frozen=True):
    """`common` is the last entry that Redis and the store both have, `upto` the last that the store had when the loss was
    found; what was decided since is in `epoch`, `carried` entries (None: they are not all there yet)."""

    common: str
    upto: str
    epoch: int
    carried: int | None = None


class LostTails:
    """Mends the partitions that the store relay finds behind."""

    def __init__(self, control: Control, store: Store, relay: StoreRelay, now_us: Callable[[], int]) -> None:
        self._control = control
        self._restorer = Restorer(control)
        self._customers = CustomerRestore(control, store, now_us)
        self._store = store
        self._relay = relay
        self._now_us = now_us

    async def run_once(self) -> int:
        """Partitions that decide again. What has to wait for the store relay goes on at the next run. A partition that can't
        be mended holds up no other: its error, of several the last, is raised in the end."""
        mine = self._relay.partitions()
        tails = {
            partition: tail for partition, tail in (await asyncio.to_thread(self._tails)).items() if partition in mine
        }
        mended, fault = 0, None
        for partition in sorted((self._relay.behind & mine) | tails.keys()):
            try:
                mended += await self._mend(partition, tails.get(partition) or await self._begin(partition))
            except SpendgateError as exc:
                _log.error("a lost tail can't be mended", partition=partition, error=f"{type(exc).__name__}: {exc}")
                fault = exc
        if fault is not None:
            raise fault
        return mended

    def _tails(self) -> dict[int, Tail]:
        stored = self._store.cursors.starting_with(TAIL_PREFIX)
        return {
            int(name.removeprefix(TAIL_PREFIX)): msgspec.json.decode(value, type=Tail) for name, value in stored.items()
        }

    async def _begin(self, partition: int) -> Tail:
        await self._restorer.degrade(partition)
        upto = await asyncio.to_thread(self._store.cursors.get, f"{CURSOR_PREFIX}{partition:03d}") or "0-0"
        common = await self._common(partition, upto)
        epoch = max(self._now_us() // 1000, place_of(upto)[0] + 1)
        tail = Tail(common, upto, epoch)
        await self._save(partition, tail)
        _log.error("Redis lost a tail", partition=partition, common=common, store=upto, epoch=epoch)
        return tail

    async def _common(self, partition: int, upto: str) -> str:
        """The entry before the first that the store has otherwise, or not at all."""
        last = "0-0"
        while entries := await self._restorer.outbox_of(partition, last, COMPARED_AT_ONCE):
            for stream_id, record in entries:
                stored = await asyncio.to_thread(self._store.decisions.get, decision_id_of(partition, stream_id))
                if stored is None or stored.record != record:
                    epoch, sequence = place_of(stream_id)
                    return f"{epoch}-{sequence - 1}"
                last = stream_id
        if last != "0-0":
            return last
        epoch, sequence = (await self._restorer.degraded())[partition]  # an outbox that was trimmed to nothing
        return upto if (epoch, sequence) > place_of(upto) else f"{epoch}-{sequence}"

    async def _mend(self, partition: int, tail: Tail) -> int:
        if tail.carried is None:
            carried = await self._restorer.begin_epoch(partition, tail.common, tail.epoch)
            tail = msgspec.structs.replace(tail, carried=carried)
            await self._save(partition, tail)
        cursor = await asyncio.to_thread(self._store.cursors.get, f"{CURSOR_PREFIX}{partition:03d}")
        stored_epoch, stored_sequence = place_of(cursor or "0-0")
        if tail.carried and (stored_epoch, stored_sequence) < (tail.epoch, tail.carried):
            return 0  # the store relay is at it
        lost = await asyncio.to_thread(self._lost, partition, tail)
        place = (await self._restorer.degraded()).get(partition)
        if place is not None:
            for customer_id in lost:
                done = await self._customers.restore(customer_id, place, carried_epoch=tail.epoch)
                if done.status == "moved":
                    return 0
                place = (place[0], done.sequence)
                RESTORED.labels("tail").inc()
            await self._restorer.release(partition, stored_sequence if stored_epoch == tail.epoch else 0)
            for customer_id in lost:
                await self._control.repair_reserved(customer_id)
        await asyncio.to_thread(self._store.cursors.forget, f"{TAIL_PREFIX}{partition:03d}")
        _log.warning("a lost tail is mended", partition=partition, customers=len(lost), carried=tail.carried)
        return 1

    def _lost(self, partition: int, tail: Tail) -> list[str]:
        """Customers of the decisions that Redis has no more."""
        stored = self._store.decisions.customers_after(partition, decision_id_of(partition, tail.common))
        upto = place_of(tail.upto)
        return sorted(
            customer_id
            for customer_id, decision_ids in stored.items()
            if any(place_of(stream_id_of(each) or "0-0") <= upto for each in decision_ids)
        )

    async def _save(self, partition: int, tail: Tail) -> None:
        value = msgspec.json.encode(tail).decode()
        await asyncio.to_thread(self._store.cursors.put, {f"{TAIL_PREFIX}{partition:03d}": value})
