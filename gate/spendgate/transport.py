"""How scripts reach Redis: a small port, and redis-py behind it.

No script is ever retried here: a script whose reply was lost may have run, and only the caller, who keeps the
`event_id`, can repeat it safely. redis-py's own retries (10 by default) are off for that reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from spendgate.errors import GateUnavailable
from spendgate.script import Script

Argument = str | bytes | int


class Transport(Protocol):
    """Runs scripts and reads keys. Raises GateUnavailable when Redis did not answer in time."""

    async def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any: ...

    async def get(self, key: str) -> bytes | None: ...

    async def aclose(self) -> None: ...


class SyncTransport(Protocol):
    """The same port for threads."""

    def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any: ...

    def get(self, key: str) -> bytes | None: ...

    def close(self) -> None: ...


def connect(url: str, timeout_seconds: float) -> redis.asyncio.Redis:
    """An asyncio redis-py client without retries; connections are made on first use."""
    return redis.asyncio.Redis.from_url(
        url,
        retry=AsyncRetry(NoBackoff(), 0),
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        max_connections=1024,
    )


class RedisPyTransport:
    """redis-py's asyncio client."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        try:
            try:
                return await self._client.evalsha(script.sha, 1, key, *arguments)
            except redis.exceptions.NoScriptError:
                return await self._client.eval(script.source, 1, key, *arguments)
        except _UNAVAILABLE as exc:
            raise _unavailable(exc) from exc

    async def get(self, key: str) -> bytes | None:
        try:
            value: Any = await self._client.get(key)
        except _UNAVAILABLE as exc:
            raise _unavailable(exc) from exc
        return value if isinstance(value, bytes) else None

    async def aclose(self) -> None:
        await self._client.aclose()


class SyncRedisPyTransport:
    """redis-py's blocking client; it keeps a pool, so threads may share it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    @classmethod
    def from_url(cls, url: str, timeout_seconds: float) -> SyncRedisPyTransport:
        return cls(
            redis.Redis.from_url(
                url,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
            )
        )

    def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        try:
            try:
                return self._client.evalsha(script.sha, 1, key, *arguments)
            except redis.exceptions.NoScriptError:
                return self._client.eval(script.source, 1, key, *arguments)
        except _UNAVAILABLE as exc:
            raise _unavailable(exc) from exc

    def get(self, key: str) -> bytes | None:
        try:
            value: Any = self._client.get(key)
        except _UNAVAILABLE as exc:
            raise _unavailable(exc) from exc
        return value if isinstance(value, bytes) else None

    def close(self) -> None:
        self._client.close()


_UNAVAILABLE = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ResponseError,
    OSError,
)


def _unavailable(exc: Exception) -> GateUnavailable:
    return GateUnavailable(f"Redis could not take the event: {type(exc).__name__}: {exc}")
