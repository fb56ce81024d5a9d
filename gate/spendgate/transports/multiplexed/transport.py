"""The asyncio transport to one Redis, found by its address or by Sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from spendgate.errors import GateUnavailable
from spendgate.script import Script
from spendgate.transports.command import Command, Functions
from spendgate.transports.multiplexed.batch import Batch
from spendgate.transports.multiplexed.node import Node
from spendgate.transports.port import Argument
from spendgate.transports.replies import code_of, error_of


class MultiplexedTransport:
    """All calls share one connection. Make one for each event loop; after its loop was closed, the next one may use it.

    `sentinels` are closed with it.
    """

    def __init__(self, node: Node, sentinels: Sequence[Node] = ()) -> None:
        self._node = node
        self._sentinels = sentinels
        self._functions = Functions()

    async def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        return await self._ask(Command(key, script, arguments, functions=self._functions))

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask(Command(key, functions=self._functions))
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
        while following := command.following(reply):
            reply = await send_following(self._node, command, following, batch.deadline)
        if not isinstance(reply, ReplyError):
            return reply
        if code_of(reply) == "READONLY":
            self._node.retire(batch)
        raise error_of(reply, command.what, self._node.where)


async def send_following(node: Node, command: Command, commands: Sequence[bytes], deadline: float) -> Any:
    """What follows, with its source if that has to come before. Where the same is on its way there with another, this one
    only has to come after it: a thousand callers of a Redis that knows no scripts would send megabytes otherwise."""
    source = command.carried
    if source and source in node.loading:
        reply = await by_deadline(deadline, node.submit(command.packed))
        if not command.is_unknown(reply):
            return reply
    node.loading.add(source)
    try:
        return await by_deadline(deadline, *(node.submit(each) for each in commands))
    finally:
        node.loading.discard(source)


async def by_deadline(deadline: float, *submitted: tuple[asyncio.Future[Any], Batch]) -> Any:
    """The last reply to commands that were submitted late in their call, so that its deadline comes before the node's."""
    try:
        async with asyncio.timeout_at(deadline):
            return (await asyncio.gather(*(future for future, _ in submitted)))[-1]
    except TimeoutError:
        _, batch = submitted[-1]
        raise GateUnavailable("Redis did not answer in time", "no" if batch.pipe is None else "unknown") from None
