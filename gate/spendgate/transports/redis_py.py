"""redis-py's client, for what the daemon asks of Redis beside scripts: streams, pipelines, configuration.

Without retries: redis-py makes 10 by default, and a command whose reply was lost may have run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, cast

import redis.asyncio
import redis.exceptions
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from spendgate.errors import GateUnavailable, ScriptFailed
from spendgate.transports.address import Address, parse_address
from spendgate.transports.replies import NOT_EXECUTED
from spendgate.transports.session import Session

_REFUSALS: Final = (
    redis.exceptions.ExecAbortError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterCrossSlotError,
)
"""redis-py knows these codes of NOT_EXECUTED by a class; the others it leaves in the message."""

_OF_PIPELINE: Final = "of pipeline caused error: "
"""redis-py puts this, and what the command was, before the message."""

_UNANSWERED: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ClusterError,
    redis.exceptions.RedisClusterException,
    OSError,
)


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """What redis-py raises in the block is raised as the transports would; see `replies`. Only that `executed` is always
    "unknown": of a pipeline, commands before the one that was refused have run."""
    try:
        yield
    except redis.exceptions.ResponseError as exc:
        code = str(exc).rpartition(_OF_PIPELINE)[2].partition(" ")[0]
        if isinstance(exc, _REFUSALS) or code in NOT_EXECUTED:
            raise GateUnavailable(f"Redis refused: {exc}") from exc
        raise ScriptFailed(f"Redis failed to run a command: {exc}") from exc
    except _UNANSWERED as exc:
        raise GateUnavailable(f"Redis does not answer: {exc}") from exc


def redis_client(url: str, timeout_seconds: float) -> redis.asyncio.Redis:
    """A client that connects on first use; the URL's own `socket_timeout`, if it has one, comes before the argument.

    That of a cluster has the same commands, each for keys of one slot; a pipeline that is no transaction may have any.
    Raises ValueError when the URL can't be used.
    """
    address = parse_address(url)
    waiting: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "max_connections": 1024,
    }
    if address.kind == "single":
        return redis.asyncio.Redis.from_url(url, **waiting)
    if address.kind == "cluster":
        return cast("redis.asyncio.Redis", _cluster_client(address, timeout_seconds))
    tls = {} if address.tls_options is None else {"ssl": True, **address.tls_options}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [(endpoint.host, endpoint.port) for endpoint in address.endpoints],
        sentinel_kwargs={**_credentials(address.sentinel_session), **tls, **waiting},
        **_credentials(address.session),
        **tls,
        **waiting,
    )
    client: redis.asyncio.Redis = sentinels.master_for(address.service, redis_class=_MasterClient)
    return client


def _cluster_client(address: Address, timeout_seconds: float) -> RedisCluster:
    """Its only repetitions are those of commands that did not run: MOVED, ASK, TRYAGAIN."""
    credentials = _credentials(address.session)
    del credentials["db"]  # a cluster has one database
    return RedisCluster(  # type: ignore[no-untyped-call,unused-ignore]
        startup_nodes=[ClusterNode(endpoint.host, endpoint.port) for endpoint in address.endpoints],
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        **({} if address.tls_options is None else {"ssl": True, **address.tls_options}),
        **credentials,
    )


class _MasterClient(redis.asyncio.Redis):
    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  (redis-py's signature)
        """redis-py leaves the connections to the Sentinels open."""
        await super().aclose(close_connection_pool)
        pool = self.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            for sentinel in pool.sentinel_manager.sentinels:
                await sentinel.aclose()


def _credentials(session: Session) -> dict[str, Any]:
    options = {"username": session.username, "password": session.password, "client_name": session.client_name}
    return {**options, "db": session.db}
