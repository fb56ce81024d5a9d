"""The writing side, for the daemon: policy state, overrides, external usage, and the streams behind them.

Each write is one script that compares versions first, so a late or repeated writer changes nothing. Reading the
outbox is for one reader, the store relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Self

import msgspec
import redis.asyncio
from redis.asyncio.cluster import RedisCluster

from spendgate.errors import BacklogFull, NotPrepared, WrongPolicy
from spendgate.keys import INSTALL_KEY, PARTITIONS, SIGNING_KEY, SLOTS_KEY, counters_key, partition_of, tag_of
from spendgate.limits.layout import pack_integers
from spendgate.policy import EffectivePolicy, decode_policy
from spendgate.script import (
    PUT_EXTERNAL,
    PUT_OVERRIDES,
    PUT_STATE,
    REFRESH,
    REPAIR_RESERVED,
    REPAIR_USED,
    SWEEP,
    TRIM,
    Script,
)
from spendgate.state import Override, OverrideSet, PolicyState
from spendgate.transports import Argument, Transport, connect, own_errors, redis_client

STREAM_START: Final = "0-0"
PIPELINED_MAX: Final = 500
"""Scripts of one write of many customers that are under way at a time."""

SWEEP_BATCH: Final = 100
HINTS_KEPT: Final = 1000
IDEMPOTENCY_WINDOW_US: Final = 15 * 60 * 1_000_000
"""An allowed event is remembered at least this long, and about twice as long at most while the sweep runs."""

CLUSTER_READ_INTERVAL_SECONDS: Final = 0.02
"""Between two reads of all partitions while nothing new is there."""

BACKLOG_MAX: Final = 1_000_000
"""Outbox entries of one partition that the store may lack; beyond, nothing is decided there."""

DEGRADED: Final = b"-1"
"""In the place of that number: the partition is to be restored first."""

DEFAULT_SLOTS: Final = 8
"""Processes that may let pass a share of the outage allowances."""

COMPARED_RESERVATIONS_MAX: Final = 2_000
"""Of one customer, compared in one script, which nobody else may wait for long: 20 to 40 ms at most."""

COMPARED_VALUES_MAX: Final = 10_000
"""Counters of limits with `per`, in the same script."""

StreamEntries = list[tuple[int, str, bytes]]
"""(partition, stream id, value of the entry's first field)."""


FIRST_GENERATION: Final = pack_integers((4, 3, 3), (1, 1024, 1024))
"""Of the memory of events: its number, and how many buckets it and the one before have (see memory.lua)."""


class Install(msgspec.Struct, frozen=True):
    """`id` names this installation in UsageBox as `spendgate/<id>`; `secret` signs reservation ids."""

    id: str
    partitions: int
    secret: bytes


class Mark(msgspec.Struct, frozen=True):
    """`end` is epoch and sequence of a partition's last entry; `record` is what stands at a cursor, None: nothing does."""

    end: tuple[int, int]
    record: bytes | None


class StateWrite(msgspec.Struct, frozen=True):
    """Policy state of a customer and the policy that it names; see `put_state`. After `kept_seconds` Redis forgets it (None:
    never), unless another one is written until then."""

    customer_id: str
    state: PolicyState
    policy: EffectivePolicy
    kept_seconds: int | None = None


class Comparison(msgspec.Struct, frozen=True):
    """Counters of a customer, compared with the open reservations. `overdue` are past their deadline and not ended yet;
    `counters` were put right; `too_many` to be compared in one step: nothing was."""

    status: Literal["agrees", "repaired", "too_many"]
    open: int
    overdue: int
    counters: int


class Control:
    """Owns its connections. Methods raise GateUnavailable when Redis does not answer or refuses, and ScriptFailed when it
    fails at what it was asked."""

    def __init__(self, client: redis.asyncio.Redis, transport: Transport) -> None:
        self._redis = client
        self._transport = transport

    @classmethod
    def from_url(cls, url: str, *, timeout_seconds: float = 5.0) -> Self:
        """Connects on first use. The timeout also bounds `block_ms` of the reads."""
        return cls(redis_client(url, timeout_seconds), connect(url, timeout_seconds))

    async def aclose(self) -> None:
        await self._transport.aclose()
        await self._redis.aclose()

    async def prepare(
        self, outage_slots: int | None = None, known: Install | None = None, last_epoch: int = 0
    ) -> Install:
        """Make this Redis an installation, or recognise it as one. Idempotent; concurrent callers agree.

        `outage_slots` is how many processes may let pass a share of the outage allowances; None takes what is there, or
        DEFAULT_SLOTS. `known` is the installation whose records the store has, up to `last_epoch`: a partition that is new to
        Redis has lost everything then, and is degraded until it is restored. Raises NotPrepared when Redis was installed with another number of
        partitions or of slots, or is another installation than the store's.
        """
        async with self._pipeline(transaction=True) as pipe:
            pipe.hsetnx(INSTALL_KEY, "id", known.id if known is not None else secrets.token_hex(6))
            pipe.hsetnx(INSTALL_KEY, "partitions", str(PARTITIONS))
            pipe.hgetall(INSTALL_KEY)
            *_, stored = await pipe.execute()
        partitions, install_id = int(stored[b"partitions"]), stored[b"id"].decode()
        if partitions != PARTITIONS:
            raise NotPrepared(f"this Redis was installed with {partitions} partitions, this version uses {PARTITIONS}")
        if known is not None and known.id != install_id:
            raise NotPrepared(f"this Redis is installation {install_id}, and the store has that of {known.id}")
        await self._prepare_slots(outage_slots)
        with own_errors():
            await self._redis.setnx(SIGNING_KEY, known.secret if known is not None else secrets.token_bytes(32))
        epoch = max(time.time_ns() // 1_000_000, last_epoch + 1)
        async with self._pipeline() as pipe:
            for partition in range(PARTITIONS):
                meta = f"{tag_of(partition)}meta"
                pipe.hsetnx(meta, "full_at", DEGRADED if known is not None else str(BACKLOG_MAX))
                pipe.hsetnx(meta, "seq", "0")
                pipe.hsetnx(meta, "generation", FIRST_GENERATION)
                pipe.hsetnx(meta, "epoch", str(epoch))  # last: without it, scripts do nothing
            pipe.get(SIGNING_KEY)
            *_, secret = await pipe.execute()
        return Install(install_id, partitions, secret)

    async def _prepare_slots(self, wanted: int | None) -> None:
        """The number stays: shares of two sizes would add up to more than the allowance."""
        with own_errors():
            await self._redis.hsetnx(SLOTS_KEY, "count", str(wanted or DEFAULT_SLOTS))
            count = int(await self._redis.hget(SLOTS_KEY, "count") or 0)
        if wanted is not None and count != wanted:
            raise NotPrepared(
                f"this Redis was installed with {count} slots for outages, not {wanted}; the number can't be changed"
            )

    async def put_default(self, policy: EffectivePolicy) -> None:
        """Set what decides customers nobody knows."""
        encoded, rules, digest = policy.encode(), policy.rules(), policy.digest
        async with self._pipeline() as pipe:
            for partition in range(PARTITIONS):
                pipe.set(f"{tag_of(partition)}policy:{digest}", encoded)
                pipe.set(f"{tag_of(partition)}rules:{digest}", rules)
                pipe.set(f"{tag_of(partition)}default", digest)
            await pipe.execute()

    async def put_state(self, customer_id: str, state: PolicyState, policy: EffectivePolicy) -> bool:
        """Write policy state; False when what is there stays, because its `order` is greater: an older version is only
        written for a stronger source, such as an administrator after a restore. Idempotent. Raises WrongPolicy when the
        state names another policy."""
        [written] = await self.put_states([StateWrite(customer_id, state, policy)])
        return written

    async def put_states(self, writes: Sequence[StateWrite]) -> list[bool]:
        """The same for many, pipelined. Several of one customer are written in the order given."""
        encoded: dict[str, tuple[bytes, bytes]] = {}
        for write in writes:
            if write.state.policy != write.policy.digest:
                raise WrongPolicy(f"state names policy {write.state.policy}, given is {write.policy.digest}")
            if write.state.policy not in encoded:
                encoded[write.state.policy] = write.policy.encode(), write.policy.rules()

        def put(write: StateWrite) -> Awaitable[Any]:
            state, kept = write.state, "" if write.kept_seconds is None else write.kept_seconds
            return self._write(
                PUT_STATE, write.customer_id, [state.encode(), state.policy, *encoded[state.policy], kept]
            )

        # The first goes alone: where the script isn't loaded yet, each of a crowd would bring it along.
        replies = [await put(write) for write in writes[:1]]
        for first in range(1, len(writes), PIPELINED_MAX):
            replies += await asyncio.gather(*map(put, writes[first : first + PIPELINED_MAX]))
        return [bool(reply) for reply in replies]

    async def put_overrides(self, customer_id: str, overrides: Sequence[Override], version: int) -> bool:
        """Replace all overrides of a customer; False when that version or a newer one is there."""
        encoded = OverrideSet(version, tuple(overrides)).encode()
        return bool(await self._write(PUT_OVERRIDES, customer_id, [encoded, version]))

    async def put_external(
        self, customer_id: str, limit_id: str, period_start_seconds: int, amount: int, requested_at_us: int
    ) -> bool:
        """Write usage recorded outside the gate, in the limit's unit; False when the period is not the open one, a
        younger reading is there, or the policy has no such limit. `period_start_seconds` is ignored for credits."""
        arguments: list[Argument] = [limit_id, period_start_seconds, amount, requested_at_us]
        return bool(await self._write(PUT_EXTERNAL, customer_id, arguments))

    async def refresh(self, customer_id: str, *, tell_flags: bool = False) -> None:
        """Recompute the customer's standing now. Idempotent."""
        await self._write(REFRESH, customer_id, ["1" if tell_flags else ""])

    async def sweep(self, partition: int) -> int:
        """Refresh customers of a partition whose standing changes by itself by now; how many there were (at most
        SWEEP_BATCH: call again when it is that many)."""
        return int(await self.run(SWEEP, partition, [SWEEP_BATCH, IDEMPOTENCY_WINDOW_US]))

    async def repair_reserved(self, customer_id: str) -> Comparison:
        """Compare what counters hold for reservations with those that are open, and put a difference right, atomically.
        Idempotent."""
        reply = await self._write(REPAIR_RESERVED, customer_id, [COMPARED_RESERVATIONS_MAX, COMPARED_VALUES_MAX])
        return Comparison(reply[0].decode(), *reply[2:])

    async def repair_used(
        self, customer_id: str, limit_id: str, period_start_seconds: int, units: int, read_at_us: int
    ) -> tuple[int, int] | None:
        """Add units (below 0: take them away) to what a quota counted as used when it was read; what it had and what it has
        then. None when that period isn't the open one any more, or somebody was faster."""
        arguments: list[Argument] = [limit_id, period_start_seconds, units, read_at_us]
        reply = await self._write(REPAIR_USED, customer_id, arguments)
        return (reply[2], reply[3]) if reply[0] == b"repaired" else None

    async def not_open(self, reservations: Sequence[tuple[str, str]]) -> list[tuple[int, int] | None]:
        """For each (customer, event id): None while its reservation is open; otherwise the epoch and sequence that its
        partition's outbox had reached, so whatever ended it is recorded there or before."""
        async with self._pipeline() as pipe:
            for customer_id, event_id in reservations:
                tag = tag_of(partition_of(customer_id))
                pipe.hexists(f"{tag}reservations:{customer_id}", event_id)
                pipe.hmget(f"{tag}meta", ["epoch", "seq"])
            replies = await pipe.execute()
        return [
            None if there else (int(meta[0] or 0), int(meta[1] or 0))
            for there, meta in zip(replies[::2], replies[1::2], strict=True)
        ]

    async def customers_with_counters(self, count: int) -> AsyncGenerator[str, None]:
        """Customers that anything was ever counted for, on all nodes, by scans of `count` keys. One who is there all the
        time is found; some may come twice."""
        with own_errors():
            async for key in self._redis.scan_iter(match="sg:{p*}:counters:*", count=count):
                yield key.decode().split(":counters:", 1)[1]

    async def mark_mirrored(self, at_us: int) -> None:
        """Note that policy state was compared with its source at this instant."""
        async with self._pipeline() as pipe:
            for partition in range(PARTITIONS):
                pipe.hset(f"{tag_of(partition)}meta", "mirrored_at_us", str(at_us))
            await pipe.execute()

    async def hint(self, customer_id: str) -> bool:
        """Ask the mirror to fetch a customer soon. False when HINTS_KEPT wait in the partition already and this one is
        shed: those that wait make the mirror poll, and the poll that follows their reading is of this customer, too."""
        key = f"{tag_of(partition_of(customer_id))}hints"
        with own_errors():
            if await self._redis.xlen(key) >= HINTS_KEPT:
                return False
            await self._redis.xadd(key, {"c": customer_id}, maxlen=HINTS_KEPT, approximate=True)
        return True

    async def read_hints(self, cursors: Mapping[int, str], block_ms: int | None = None) -> StreamEntries:
        """Hints after the cursors (stream ids per partition, STREAM_START for all)."""
        return await self._read("hints", cursors, HINTS_KEPT, block_ms)

    async def forget_hints(self, read: Mapping[int, str]) -> None:
        """Make room: hints up to and including these stream ids were read. Idempotent."""
        with own_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for partition, stream_id in read.items():
                    at_ms, number = stream_id.split("-")
                    pipe.xtrim(f"{tag_of(partition)}hints", minid=f"{at_ms}-{int(number) + 1}", approximate=False)
                await pipe.execute()

    async def read_feed(self, cursors: Mapping[int, str], block_ms: int | None = None) -> StreamEntries:
        """Customers whose flags changed, after the cursors."""
        return await self._read("feed", cursors, HINTS_KEPT, block_ms)

    async def read_outbox(self, cursors: Mapping[int, str], count: int) -> StreamEntries:
        """At most `count` records per partition after the cursors, in order within a partition."""
        return await self._read("outbox", cursors, count, None)

    async def marks(self, cursors: Mapping[int, str]) -> dict[int, Mark]:
        """For each partition, where its outbox ends, and the record that it holds at the cursor."""
        async with self._pipeline() as pipe:
            for partition, cursor in cursors.items():
                pipe.hmget(f"{tag_of(partition)}meta", ["epoch", "seq"])
                pipe.xrange(f"{tag_of(partition)}outbox", cursor, cursor)
            replies = await pipe.execute()
        return {
            partition: Mark((int(meta[0] or 0), int(meta[1] or 0)), found[0][1][b"r"] if found else None)
            for partition, meta, found in zip(cursors, replies[::2], replies[1::2], strict=True)
        }

    async def trim_outbox(self, partition: int, stream_id: str, record: bytes) -> bool:
        """Forget entries before this one, which must be stored for good; it stays itself, as a mark of what Redis was told.
        Idempotent. False when Redis has lost it: then nothing is forgotten."""
        return bool(await self.run(TRIM, partition, [stream_id, record, BACKLOG_MAX]))

    async def get_policy(self, partition: int, digest: str) -> EffectivePolicy:
        """The policy of this digest; raises NotPrepared when the partition has none."""
        encoded = await self._transport.get(f"{tag_of(partition)}policy:{digest}")
        if encoded is None:
            raise NotPrepared(f"Redis holds no policy {digest}")
        return decode_policy(encoded)

    async def keep_policies(self, partition: int, policies: Iterable[EffectivePolicy]) -> None:
        """Put them where scripts find them, for what was decided under them. Idempotent."""
        async with self._pipeline() as pipe:
            for policy in policies:
                pipe.set(f"{tag_of(partition)}policy:{policy.digest}", policy.encode())
                pipe.set(f"{tag_of(partition)}rules:{policy.digest}", policy.rules())
            await pipe.execute()

    async def outbox_length(self) -> int:
        """Entries that the store lacks, over all partitions."""
        async with self._pipeline() as pipe:
            for partition in range(PARTITIONS):
                pipe.hmget(f"{tag_of(partition)}meta", ["seq", "full_at"])
                pipe.xlen(f"{tag_of(partition)}outbox")
            replies = await pipe.execute()
        return sum(
            int(meta[0] or 0) - (int(meta[1]) - BACKLOG_MAX) if meta[1] not in (None, DEGRADED) else length
            for meta, length in zip(replies[::2], replies[1::2], strict=True)
        )

    async def ping(self) -> None:
        """Raises GateUnavailable when Redis does not answer."""
        with own_errors():
            await self._redis.exists(INSTALL_KEY)

    @property
    def redis(self) -> redis.asyncio.Redis:
        """The client, for commands outside the gate's own keys (advice, health)."""
        return self._redis

    @contextlib.asynccontextmanager
    async def _pipeline(self, *, transaction: bool = False) -> AsyncGenerator[Any, None]:
        with own_errors():
            async with self._redis.pipeline(transaction=transaction) as pipe:
                yield pipe

    async def run(self, script: Script, partition: int, arguments: Sequence[Argument]) -> Any:
        """A script that is about a partition."""
        tag = tag_of(partition)
        return _checked(await self._transport.run(script, f"{tag}meta", [tag, *arguments]))

    async def run_for(self, script: Script, customer_id: str, arguments: Sequence[Argument]) -> Any:
        """A script that is about a customer; what it answers, errors too."""
        tag = tag_of(partition_of(customer_id))
        return await self._transport.run(script, counters_key(customer_id), [tag, customer_id, *arguments])

    async def _write(self, script: Script, customer_id: str, arguments: Sequence[Argument]) -> Any:
        return _checked(await self.run_for(script, customer_id, arguments))

    async def _read(self, stream: str, cursors: Mapping[int, str], count: int, block_ms: int | None) -> StreamEntries:
        partition_of_key = {f"{tag_of(partition)}{stream}".encode(): partition for partition in cursors}
        streams: dict[Any, Any] = {f"{tag_of(partition)}{stream}": cursor for partition, cursor in cursors.items()}
        if isinstance(self._redis, RedisCluster):
            reply = await self._read_cluster(streams, count, block_ms)
        else:
            with own_errors():
                reply = _streams(await self._redis.xread(streams, count=count, block=block_ms))
        entries: StreamEntries = []
        for key, items in reply:
            for stream_id, fields in items:
                entries.append((partition_of_key[key], stream_id.decode(), next(iter(fields.values()))))
        return entries

    async def _read_cluster(self, streams: Mapping[str, str], count: int, block_ms: int | None) -> list[Any]:
        """One read is of one slot there, and nothing can wait for several: ask all of them again and again."""
        deadline = time.monotonic() + (block_ms or 0) / 1000
        while True:
            async with self._pipeline() as pipe:
                for key, cursor in streams.items():
                    pipe.xread({key: cursor}, count=count)
                found = [pair for reply in await pipe.execute() for pair in _streams(reply)]
            if found or time.monotonic() >= deadline:
                return found
            await asyncio.sleep(CLUSTER_READ_INTERVAL_SECONDS)


def _streams(reply: Any) -> Any:
    """RESP3 answers a map whose values are wrapped in one more list, RESP2 a list of pairs."""
    if isinstance(reply, dict):
        return [(key, items[0] if items and isinstance(items[0], list) else items) for key, items in reply.items()]
    return reply or ()


def _checked(reply: Any) -> Any:
    if isinstance(reply, list) and reply[0] == b"error":
        code, subject = reply[1].decode(), reply[2].decode()
        if code == "backlog_full":
            raise BacklogFull
        if code in ("not_prepared", "no_policy"):
            raise NotPrepared(f"Redis is not ready ({code} {subject}): call prepare and put_default first")
        raise WrongPolicy(f"{code}: {subject}")
    return reply
