"""What a Redis must be like: it never evicts a counter, and how much it loses in a power cut is known."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import redis.asyncio
import redis.exceptions
import structlog

OLDEST_VERSION: Final = (6, 2)
FUNCTIONS_VERSION: Final = (7, 0)

_log = structlog.get_logger("spendgate.redis")


class UnsafeRedis(Exception):
    """This Redis may evict keys, or is too old; nothing was written."""


class RedisFacts(msgspec.Struct, frozen=True):
    """`maxmemory_policy` and `appendfsync` None: this Redis hides them. `appendonly` None likewise."""

    version: str
    server: str
    maxmemory_policy: str | None
    appendonly: bool | None
    appendfsync: str | None

    @property
    def is_old(self) -> bool:
        return self._numbers < OLDEST_VERSION

    @property
    def has_functions(self) -> bool:
        """Whether it keeps the scripts as functions, which makes a decision cheaper."""
        return self._numbers >= FUNCTIONS_VERSION

    @property
    def _numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")[:2])

    @property
    def durability(self) -> str:
        """What a power cut costs, in words."""
        if self.appendonly is None:
            return "unknown: this Redis hides its configuration"
        if not self.appendonly:
            return "no append-only file: a restart loses everything since the last snapshot"
        return {
            "always": "appendfsync always: a power cut loses nothing",
            "everysec": "appendfsync everysec: a power cut loses about a second of decisions",
        }.get(self.appendfsync or "", f"appendfsync {self.appendfsync}: the operating system decides what is lost")


async def read_facts(client: redis.asyncio.Redis) -> RedisFacts:
    """Raises redis-py's errors when Redis does not answer."""
    info: dict[str, Any] = await client.info("server")
    config = {name: await _config(client, name) for name in ("maxmemory-policy", "appendonly", "appendfsync")}
    appendonly = config["appendonly"]
    return RedisFacts(
        version=str(info.get("redis_version", "0.0")),
        server=str(info.get("server_name", "redis")),
        maxmemory_policy=config["maxmemory-policy"],
        appendonly=None if appendonly is None else appendonly == "yes",
        appendfsync=config["appendfsync"],
    )


async def _config(client: redis.asyncio.Redis, name: str) -> str | None:
    try:
        reply: dict[Any, Any] = await client.config_get(name)
    except redis.exceptions.ResponseError:
        return None
    values = {_text(key): _text(value) for key, value in reply.items()}
    return values.get(name)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def refuse_eviction(client: redis.asyncio.Redis, *, acknowledged: bool) -> RedisFacts:
    """Raise UnsafeRedis unless keys are never evicted, or an operator acknowledged it; log what durability there is."""
    facts = await read_facts(client)
    if facts.is_old:
        raise UnsafeRedis(f"Redis {facts.version} is too old: 6.2 is the oldest that Spendgate supports")
    if facts.maxmemory_policy != "noeviction":
        what = (
            "hides its maxmemory-policy"
            if facts.maxmemory_policy is None
            else f"has maxmemory-policy {facts.maxmemory_policy}, which deletes balances when memory is short"
        )
        if not acknowledged:
            raise UnsafeRedis(
                f"this Redis {what}. Set `maxmemory-policy noeviction`, or SPENDGATE_REDIS_POLICY_ACKNOWLEDGED=true"
            )
        _log.warning(f"this Redis {what}; acknowledged")
    if facts.appendfsync != "always" or not facts.appendonly:
        _log.warning("Redis may lose acknowledged decisions", durability=facts.durability)
    return facts
