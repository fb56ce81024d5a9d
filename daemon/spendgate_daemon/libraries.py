"""Libraries of functions that versions before this one left in Redis: each is some 200 kB, and it keeps them for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis.asyncio
import redis.exceptions
import structlog

from spendgate.script import DECIDE, LIBRARY_PREFIX

_log = structlog.get_logger("spendgate.redis")


async def forget_libraries(client: redis.asyncio.Redis) -> int:
    """Delete the libraries of other versions; how many. A process that still runs one loads it again with its next call.

    A Redis that has no functions, or an account that may not manage them, has nothing to forget. Raises redis-py's errors
    when Redis does not answer.
    """
    try:
        reply = await client.execute_command("FUNCTION LIST", "LIBRARYNAME", f"{LIBRARY_PREFIX}*")  # type: ignore[no-untyped-call]
        old = _names(reply) - {DECIDE.library.name if DECIDE.library else ""}
        for name in old:
            await client.execute_command("FUNCTION DELETE", name)  # type: ignore[no-untyped-call]
    except redis.exceptions.ResponseError as exc:
        _log.info("libraries of other versions are left in Redis", reason=str(exc))
        return 0
    return len(old)


def _names(reply: Any) -> set[str]:
    """A cluster's reply is one of each node, by its address."""
    lists = reply.values() if isinstance(reply, Mapping) else [reply]
    return {bytes(library[library.index(b"library_name") + 1]).decode() for each in lists for library in each}
