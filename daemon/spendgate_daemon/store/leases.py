"""Leases: who does which part of the work now.

They decide who works, not what counts: whoever was paused and wakes up finds its cursors moved (see `Cursors.advance`), and
what else it repeats changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import leases

LEASE_LOCK: Final = 737067
REPLICA_PREFIX: Final = "replica."


class Lease(msgspec.Struct, frozen=True):
    """`fence` grows with each change of the holder; void from `until_us` on, by the database's clock."""

    name: str
    holder: str
    fence: int
    until_us: int


class Leases:
    def __init__(self, database: Database) -> None:
        self._database = database

    def divide(
        self, replica: str, names: Sequence[str], ttl_us: int, is_dead: Callable[[str], bool] = lambda _: False
    ) -> dict[str, int]:
        """Be counted among the replicas, give up what is another's share, take what is this one's and free; the fences of
        what it holds then. The share of each is the same whoever computes it, and moves little when one comes or goes.
        `is_dead` may know that a holder is gone before its time is over."""
        with self._database.writing() as connection:
            self._database.alone(connection, LEASE_LOCK)
            now_us = self._database.now_us(connection)
            held = {row.name: Lease(*row) for row in connection.execute(sa.select(leases))}
            living = self._living(held.values(), replica, now_us, is_dead)
            gone = [each.name for each in held.values() if _is_replica(each) and each.holder not in living]
            connection.execute(leases.delete().where(leases.c.name.in_(gone)))
            share = [name for name in names if max(living, key=lambda each: _weight(each, name)) == replica]
            others = {
                each.name for each in held.values() if each.holder in living - {replica} and each.until_us > now_us
            }
            mine = [f"{REPLICA_PREFIX}{replica}", *(name for name in share if name not in others)]
            fences = {name: _fence(held.get(name), replica) for name in mine}
            rows = [
                {"name": name, "holder": replica, "fence": fence, "until_us": now_us + ttl_us}
                for name, fence in fences.items()
            ]
            update = ["holder", "fence", "until_us"]
            self._database.upsert(connection, leases, rows, keys=["name"], update=update)
            given_up = [each.name for each in held.values() if each.holder == replica and each.name not in fences]
            connection.execute(leases.update().where(leases.c.name.in_(given_up)).values(until_us=0))
        return {name: fence for name, fence in fences.items() if not name.startswith(REPLICA_PREFIX)}

    def leave(self, replica: str) -> None:
        """Give up everything at once. Idempotent."""
        with self._database.writing() as connection:
            connection.execute(leases.update().where(leases.c.holder == replica).values(until_us=0))
            connection.execute(leases.delete().where(leases.c.name == f"{REPLICA_PREFIX}{replica}"))

    def all(self) -> list[Lease]:
        """By name; of replicas, too."""
        with self._database.reading() as connection:
            return [Lease(*row) for row in connection.execute(sa.select(leases).order_by(leases.c.name))]

    @staticmethod
    def _living(held: Iterable[Lease], replica: str, now_us: int, is_dead: Callable[[str], bool]) -> set[str]:
        present = {each.holder for each in held if _is_replica(each) and each.until_us > now_us}
        return {replica} | {each for each in present if not is_dead(each)}


def _is_replica(lease: Lease) -> bool:
    return lease.name.startswith(REPLICA_PREFIX)


def _fence(before: Lease | None, replica: str) -> int:
    if before is None:
        return 1
    return before.fence + (before.holder != replica or before.until_us == 0)


def _weight(replica: str, name: str) -> bytes:
    """Rendezvous hashing: a name belongs to the replica of the greatest weight."""
    return hashlib.blake2b(f"{replica}\n{name}".encode(), digest_size=8).digest()
