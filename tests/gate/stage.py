"""A real Redis whose scripts are told the time, behind the gate: what `FakeSyncGate` is in memory."""

from __future__ import annotations

import redis
from interleavings import told_scripts

from spendgate import SyncGate
from spendgate.control import FIRST_GENERATION
from spendgate.keys import SIGNING_KEY, counters_key, partition_of, tag_of
from spendgate.record import decode_record
from spendgate.script import PUT_OVERRIDES, PUT_STATE, SWEEP
from spendgate.state import OverrideSet, PolicyState
from spendgate.testing import Clock
from spendgate.testing.memory import EPOCH
from spendgate.transports import connect_sync


class ToldTransport:
    """Runs the scripts at the time of `clock`."""

    def __init__(self, url, clock) -> None:
        self._transport, self._clock, self._scripts = connect_sync(url, 5), clock, told_scripts()

    def run(self, script, key, arguments):
        return self._transport.run(self._scripts[script.name], key, [*arguments, *divmod(self._clock(), 1_000_000)])

    def get(self, key):
        return self._transport.get(key)

    def close(self):
        self._transport.close()


class RedisStage(SyncGate):
    """One customer's partition; `policy` decides customers without a contract."""

    def __init__(self, url, policy) -> None:
        self.clock, self.client, self._default, self._versions = Clock(), redis.Redis.from_url(url), policy, 0
        self.transport = ToldTransport(url, self.clock)
        super().__init__(self.transport)
        self.client.set(SIGNING_KEY, "a key for tests")
        tag = tag_of(partition_of("acme"))
        meta = {"epoch": EPOCH, "seq": 0, "generation": FIRST_GENERATION, "generation_at_us": self.clock()}
        self.client.hset(f"{tag}meta", mapping=meta)
        self.client.set(f"{tag}policy:{policy.digest}", policy.encode())
        self.client.set(f"{tag}rules:{policy.digest}", policy.rules())
        self.client.set(f"{tag}default", policy.digest)

    def contract(self, customer_id, policy=None, *, status="active", granted_micro_credits=None, grants=()):
        used, self._versions = policy or self._default, self._versions + 1
        state = PolicyState(
            used.digest, "test", status, self._versions, "test", self.clock(), granted_micro_credits, {}, grants
        )
        self._write(PUT_STATE, customer_id, state.encode(), used.digest, used.encode(), used.rules(), "")

    def override(self, customer_id, *overrides):
        self._versions += 1
        self._write(PUT_OVERRIDES, customer_id, OverrideSet(self._versions, overrides).encode(), self._versions)

    def sweep(self):
        tag = tag_of(partition_of("acme"))
        self.transport.run(SWEEP, f"{tag}meta", [tag, 1000, 900_000_000])

    def records(self, customer_id):
        entries = self.client.xrange(f"{tag_of(partition_of(customer_id))}outbox")
        return [decode_record(fields[b"r"]) for _, fields in entries]

    def _write(self, script, customer_id, *arguments):
        tag = tag_of(partition_of(customer_id))
        return self.transport.run(script, counters_key(customer_id), [tag, customer_id, *arguments])

    def close(self):
        super().close()
        self.client.close()
