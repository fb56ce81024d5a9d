"""The asyncio transport to a Redis Cluster: one connection to each master that owns a slot in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import ReplyError
from redis.crc import key_slot

from spendgate.errors import GateUnavailable
from spendgate.script import Script
from spendgate.transports.command import Command, Functions
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.multiplexed.node import Node
from spendgate.transports.multiplexed.transport import by_deadline, send_following
from spendgate.transports.port import Argument
from spendgate.transports.replies import error_of
from spendgate.transports.slots import (
    ASKING,
    MAX_REDIRECTIONS,
    READ_SLOTS,
    REFRESH_SECONDS,
    Failures,
    Redirection,
    Slots,
)


class ClusterTransport:
    """Reads the slots on first use, and again when a node fails or redirects; a redirected command is sent on at once.

    `make_node` makes the node at an endpoint. Make one transport for each event loop.
    """

    def __init__(
        self, startup: Sequence[Endpoint], make_node: Callable[[Endpoint], Node], timeout_seconds: float
    ) -> None:
        self._startup = startup
        self._make_node = make_node
        self._timeout_seconds = timeout_seconds
        self._nodes: dict[Endpoint, Node] = {}
        self._owners: dict[int, Endpoint] = {}
        self._slots: Slots | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = float("-inf")
        self._failures = Failures()
        self._functions = Functions()
        self._problem = ""
        self._closed = False

    async def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        return await self._ask(Command(key, script, arguments, functions=self._functions))

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask(Command(key, functions=self._functions))
        return value

    async def aclose(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        await asyncio.gather(*(node.aclose() for node in self._nodes.values()))

    async def _ask(self, command: Command) -> Any:
        slot = key_slot(command.key.encode())
        endpoint = self._owners.get(slot)
        if endpoint is None:
            deadline = asyncio.get_running_loop().time() + self._timeout_seconds
            endpoint = await self._find_owner(slot, deadline)
            reply = await self._send(endpoint, command, (command.packed,), deadline)
        else:
            node = self._node(endpoint)
            try:
                future, batch = node.submit(command.packed)
                deadline = batch.deadline
                reply = await future
            except GateUnavailable:
                self._failed(endpoint)
                raise
        if isinstance(reply, ReplyError):
            return await self._follow(reply, slot, endpoint, command, deadline)
        return reply

    async def _follow(self, reply: Any, slot: int, endpoint: Endpoint, command: Command, deadline: float) -> Any:
        """Send the command to where it can run. None of the answers that lead to another attempt says that it ran."""
        commands: tuple[bytes, ...] = (command.packed,)
        asking = False
        for _ in range(MAX_REDIRECTIONS):
            redirection = Redirection.of(reply, endpoint)
            if redirection is not None:
                endpoint, asking = redirection.target, redirection.asking
                if not asking:
                    self._owners[slot] = endpoint
                    self._doubt()
            elif following := command.following(reply):
                commands = following
            else:
                break
            reply = await self._send(endpoint, command, commands, deadline, asking=asking)
            if not isinstance(reply, ReplyError):
                return reply
        self._doubt()
        raise error_of(reply, command.what, endpoint)

    async def _send(
        self, endpoint: Endpoint, command: Command, commands: Sequence[bytes], deadline: float, *, asking: bool = False
    ) -> Any:
        node = self._node(endpoint)
        try:
            if not asking:
                return await send_following(node, command, commands, deadline)
            # It speaks of the very next command on the connection.
            asked = (*commands[:-1], ASKING, commands[-1])
            return await by_deadline(deadline, *(node.submit(each) for each in asked))
        except GateUnavailable:
            self._failed(endpoint)
            raise

    async def _find_owner(self, slot: int, deadline: float) -> Endpoint:
        if self._closed:
            raise RuntimeError("the transport is closed")
        owner = self._slots.owner(slot) if self._slots else None
        if owner is None:
            self._doubt()
            if self._refreshing is not None:
                await asyncio.wait([self._refreshing], timeout=deadline - asyncio.get_running_loop().time())
            owner = self._slots.owner(slot) if self._slots else None
        if owner is None:
            raise GateUnavailable(
                self._problem or f"no node of the cluster named the owner of slot {slot} in time", "no"
            )
        self._owners[slot] = owner
        return owner

    def _failed(self, endpoint: Endpoint) -> None:
        self._failures.add(endpoint, asyncio.get_running_loop().time())
        self._doubt()

    def _doubt(self) -> None:
        """Read the slots again, in the background, unless that was just done."""
        loop = asyncio.get_running_loop()
        reading = self._refreshing is not None and not self._refreshing.done()
        if self._closed or reading or loop.time() - self._refreshed_at < REFRESH_SECONDS:
            return
        self._refreshed_at = loop.time()
        self._refreshing = loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        known = self._slots.masters if self._slots else []
        problems = []
        for endpoint in self._failures.last((*known, *self._startup)):
            try:
                reply = await self._node(endpoint).submit(READ_SLOTS)[0]
            except GateUnavailable as exc:
                self._failures.add(endpoint, asyncio.get_running_loop().time())
                problems.append(str(exc))
                continue
            if isinstance(reply, ReplyError) or not reply:
                problems.append(f"Redis at {endpoint} names no slots: {reply}")
                continue
            self._slots = Slots(reply, endpoint)
            self._owners.clear()
            self._problem = ""
            return
        self._problem = "; ".join(problems)

    def _node(self, endpoint: Endpoint) -> Node:
        node = self._nodes.get(endpoint)
        if node is None:
            node = self._nodes[endpoint] = self._make_node(endpoint)
        return node
