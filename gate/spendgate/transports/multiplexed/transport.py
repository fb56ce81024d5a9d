"""The asyncio transport to one Redis, found by its address or by Sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from hiredis import ReplyError

from spendgate.errors import GateUnavailable
from spendgate.script import Script
from spendgate.transports.command import Command
from spendgate.transports.multiplexed.batch import Batch
from spendgate.transports.multiplexed.node import Node
from spendgate.transports.port import Argument
from spendgate.transports.replies import code_of, error_of

Reply = TypeVar("Reply")


class MultiplexedTransport:
    """All calls share one connection. Make one for each event loop; after its loop was closed, the next one may use it.

    `sentinels` are closed with it.
    """

    def __init__(self, node: Node, sentinels: Sequence[Node] = ()) -> None:
        self._node = node
        self._sentinels = sentinels

    async def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        return await self._ask(Command(key, script, arguments))

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask(Command(key))
        return value

    async def aclose(self) -> None:
        await asyncio.gather(*(node.aclose() for node in (self._node, *self._sentinels)))

    async def _ask(self, command: Command) -> Any:
        future, batch = self._node.submit(command.packed)
        reply = await future
        if isinstance(reply, ReplyError):
            return await self._recover(command, reply, batch)
        return reply

    async def _recover(self, command: Command, reply: Any, batch: Batch) -> Any:
        if code_of(reply) == "NOSCRIPT":
            future, _ = self._node.submit(command.with_source())
            reply = await by_deadline(batch.deadline, future)
        if not isinstance(reply, ReplyError):
            return reply
        if code_of(reply) == "READONLY":
            self._node.retire(batch)
        raise error_of(reply, command.what, self._node.where)


async def by_deadline(deadline: float, reply: Awaitable[Reply]) -> Reply:
    """Wait for a command that was sent late in its call, so that its deadline comes before the node's own."""
    try:
        async with asyncio.timeout_at(deadline):
            return await reply
    except TimeoutError:
        raise GateUnavailable("Redis did not answer within the deadline", "unknown") from None
