"""The transport for threads to a Redis Cluster: a connection of each thread to each master that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from hiredis import ReplyError
from redis.crc import key_slot

from spendgate.errors import GateUnavailable
from spendgate.script import Script
from spendgate.transports.command import Command, Functions
from spendgate.transports.endpoint import Endpoint
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
from spendgate.transports.threaded.node import ThreadedNode


class ThreadedClusterTransport:
    """Reads the slots on first use, and before the next call when a node has failed or redirected; a redirected command
    is sent on at once.

    `make_node` makes the node at an endpoint.
    """

    def __init__(
        self, startup: Sequence[Endpoint], make_node: Callable[[Endpoint], ThreadedNode], timeout_seconds: float
    ) -> None:
        self._startup = startup
        self._make_node = make_node
        self._timeout_seconds = timeout_seconds
        self._nodes: dict[Endpoint, ThreadedNode] = {}
        self._slots: Slots | None = None
        self._moved: dict[int, Endpoint] = {}
        self._is_doubted = True
        self._refreshed_at = float("-inf")
        self._failures = Failures()
        self._functions = Functions()
        self._is_closed = False

    def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        return self._ask(Command(key, script, arguments, functions=self._functions))

    def get(self, key: str) -> bytes | None:
        value: bytes | None = self._ask(Command(key, functions=self._functions))
        return value

    def close(self) -> None:
        self._is_closed = True
        for node in list(self._nodes.values()):
            node.close()

    def _ask(self, command: Command) -> Any:
        if self._is_closed:
            raise RuntimeError("the transport is closed")
        deadline = monotonic() + self._timeout_seconds
        slot = key_slot(command.key.encode())
        endpoint = self._find_owner(slot, deadline)
        reply = self._send(endpoint, (command.packed,), deadline)
        if isinstance(reply, ReplyError):
            return self._follow(reply, slot, endpoint, command, deadline)
        return reply

    def _follow(self, reply: Any, slot: int, endpoint: Endpoint, command: Command, deadline: float) -> Any:
        """Send the command to where it can run. None of the answers that lead to another attempt says that it ran."""
        commands: tuple[bytes, ...] = (command.packed,)
        asking = False
        for _ in range(MAX_REDIRECTIONS):
            redirection = Redirection.of(reply, endpoint)
            if redirection is not None:
                endpoint, asking = redirection.target, redirection.asking
                if not asking:
                    self._moved[slot] = endpoint
                    self._is_doubted = True
            elif following := command.following(reply):
                commands = following
            else:
                break
            reply = self._send(endpoint, commands, deadline, asking=asking)
            if not isinstance(reply, ReplyError):
                return reply
        self._is_doubted = True
        raise error_of(reply, command.what, endpoint)

    def _send(self, endpoint: Endpoint, commands: tuple[bytes, ...], deadline: float, *, asking: bool = False) -> Any:
        if asking:
            commands = (*commands[:-1], ASKING, commands[-1])  # it speaks of the very next command on the connection
        try:
            return self._node(endpoint).ask(b"".join(commands), deadline, len(commands))
        except GateUnavailable:
            self._failures.add(endpoint, monotonic())
            self._is_doubted = True
            raise

    def _find_owner(self, slot: int, deadline: float) -> Endpoint:
        if self._slots is None or (self._is_doubted and monotonic() - self._refreshed_at >= REFRESH_SECONDS):
            self._refresh(deadline)
        owner = self._moved.get(slot) or (self._slots.owner(slot) if self._slots else None)
        if owner is None:
            self._is_doubted = True
            raise GateUnavailable(f"no node of the cluster owns slot {slot}", "no")
        return owner

    def _refresh(self, deadline: float) -> None:
        """Raises GateUnavailable when no node answers and nothing is known from before."""
        self._refreshed_at = monotonic()
        known = self._slots.masters if self._slots else []
        problems = []
        for endpoint in self._failures.last((*known, *self._startup)):
            if monotonic() >= deadline:
                break
            try:
                reply = self._node(endpoint).ask(READ_SLOTS, deadline)
            except GateUnavailable as exc:
                self._failures.add(endpoint, monotonic())
                problems.append(str(exc))
                continue
            if isinstance(reply, ReplyError) or not reply:
                problems.append(f"Redis at {endpoint} names no slots: {reply}")
                continue
            self._slots, self._moved, self._is_doubted = Slots(reply, endpoint), {}, False
            return
        if self._slots is None:
            raise GateUnavailable("; ".join(problems), "no")

    def _node(self, endpoint: Endpoint) -> ThreadedNode:
        node = self._nodes.get(endpoint)
        # setdefault is atomic, so two threads that meet here end up with the same node.
        return node or self._nodes.setdefault(endpoint, self._make_node(endpoint))
