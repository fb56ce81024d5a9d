"""Gates whose Redis is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from spendgate.client import Gate, SyncGate
from spendgate.errors import Executed, GateUnavailable
from spendgate.keys import SIGNING_KEY, partition_of, tag_of
from spendgate.limits.check import Grant
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record
from spendgate.script import PUT_OVERRIDES, PUT_STATE, SWEEP, Script
from spendgate.state import Override, OverrideSet, PolicyState, Status, burn_order
from spendgate.testing.correcting import play_correct
from spendgate.testing.deciding import play_decide
from spendgate.testing.memory import MemoryRedis, Play
from spendgate.testing.repairing import play_repair_reserved
from spendgate.testing.reserving import play_finish_reservation, play_reserved
from spendgate.testing.settling import play_hold_slot, play_settle
from spendgate.testing.writing import (
    play_put_external,
    play_put_overrides,
    play_put_state,
    play_refresh,
    play_snapshot,
    play_sweep,
)
from spendgate.transports import Argument

START: Final = datetime(2026, 1, 1, tzinfo=UTC)

PLAYS: Final[dict[str, Play]] = {
    "decide": play_decide,
    "finish_reservation": play_finish_reservation,
    "reserved": play_reserved,
    "snapshot": play_snapshot,
    "put_state": play_put_state,
    "put_overrides": play_put_overrides,
    "put_external": play_put_external,
    "refresh": play_refresh,
    "sweep": play_sweep,
    "repair_reserved": play_repair_reserved,
    "settle": play_settle,
    "correct": play_correct,
    "hold_slot": play_hold_slot,
}
"""Scripts by name."""


class Clock:
    """A time that stands still: `now` is aware and UTC."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def advance(self, **duration: float) -> None:
        """As `timedelta` takes it: `clock.advance(hours=5)`."""
        self.now += timedelta(**duration)

    def __call__(self) -> int:
        return (self.now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class MemoryTransport:
    """Plays the scripts in memory. While `down` is true it answers as a Redis that is away."""

    def __init__(self, redis: MemoryRedis) -> None:
        self._transport = SyncMemoryTransport(redis)

    @property
    def down(self) -> bool:
        return self._transport.down

    @down.setter
    def down(self, down: bool) -> None:
        self._transport.down = down

    async def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        return self._transport.run(script, key, arguments)

    async def get(self, key: str) -> bytes | None:
        return self._transport.get(key)

    async def aclose(self) -> None:
        """Nothing to close."""


class SyncMemoryTransport:
    """See `MemoryTransport`."""

    def __init__(self, redis: MemoryRedis) -> None:
        self._redis = redis
        self.down = False
        self.executed: Executed = "no"

    def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:  # noqa: ARG002
        if self.down:
            raise GateUnavailable("the fake Redis is down", self.executed)
        return self._redis.run(script, arguments)

    def get(self, key: str) -> bytes | None:
        if self.down:
            raise GateUnavailable("the fake Redis is down", self.executed)
        return b"a fake's signing key" if key == SIGNING_KEY else self._redis.get(key)

    def close(self) -> None:
        """Nothing to close."""


class _House:
    """What tests do to a fake, apart from asking it: contracts, overrides, outages, time."""

    clock: Clock
    redis: MemoryRedis

    def _furnish(self, policy: EffectivePolicy) -> None:
        self.clock = Clock()
        self.redis = MemoryRedis(self.clock, PLAYS)
        self._default = policy
        self.redis.default = policy.digest
        self.redis.policies[policy.digest] = policy.encode()
        self._versions = 0

    def contract(
        self,
        customer_id: str,
        policy: EffectivePolicy | None = None,
        *,
        status: Status = "active",
        granted_micro_credits: int | None = None,
        grants: Iterable[Grant] = (),
    ) -> None:
        """Put a customer under a policy; None is the fake's own. `grants` are credits on top that expire."""
        used = policy or self._default
        self._versions += 1
        state = PolicyState(
            policy=used.digest,
            plan=used.plan,
            status=status,
            version=self._versions,
            source="fake",
            updated_at_us=self.clock(),
            granted_micro_credits=granted_micro_credits,
            grants=burn_order(grants),
        )
        written: list[Argument] = [state.encode(), used.digest, used.encode(), used.rules(), ""]
        self.redis.run(PUT_STATE, [_tag(customer_id), customer_id, *written])

    def override(self, customer_id: str, *overrides: Override) -> None:
        """Replace the customer's overrides."""
        self._versions += 1
        encoded = OverrideSet(self._versions, overrides).encode()
        self.redis.run(PUT_OVERRIDES, [_tag(customer_id), customer_id, encoded, self._versions])

    def sweep(self) -> None:
        """What the daemon does when time has passed: resets, expiries, ends of reservations."""
        for tag in {_tag(customer_id) for customer_id in self.redis.customers}:
            self.redis.run(SWEEP, [tag, 1000, 900_000_000])

    def records(self, customer_id: str) -> list[Record]:
        """What the outbox holds of a customer, oldest first."""
        entries = self.redis.outbox.get(_tag(customer_id), [])
        decoded = [decode_record(raw) for _, raw in entries]
        return [record for record in decoded if record.customer_id == customer_id]


class FakeGate(Gate, _House):
    """A `Gate` in memory. Customers that were never given a contract are decided by `policy`, too."""

    def __init__(self, policy: EffectivePolicy) -> None:
        self._furnish(policy)
        self.transport = MemoryTransport(self.redis)
        super().__init__(self.transport)


class FakeSyncGate(SyncGate, _House):
    """A `SyncGate` in memory; see `FakeGate`."""

    def __init__(self, policy: EffectivePolicy) -> None:
        self._furnish(policy)
        self.transport = SyncMemoryTransport(self.redis)
        super().__init__(self.transport)


def _tag(customer_id: str) -> str:
    return tag_of(partition_of(customer_id))
