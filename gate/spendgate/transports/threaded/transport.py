"""The transport for threads to one Redis, found by its address or by Sentinels."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from hiredis import ReplyError

from spendgate.script import Script
from spendgate.transports.command import Command, Functions
from spendgate.transports.port import Argument
from spendgate.transports.replies import code_of, error_of
from spendgate.transports.threaded.node import ThreadedNode


class ThreadedTransport:
    """Any number of threads share one; each has its own connection. A forked child makes its own.

    `sentinels` are closed with it.
    """

    def __init__(self, node: ThreadedNode, timeout_seconds: float, sentinels: Sequence[ThreadedNode] = ()) -> None:
        self._node = node
        self._timeout_seconds = timeout_seconds
        self._sentinels = sentinels
        self._functions = Functions()

    def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any:
        return self._ask(Command(key, script, arguments, functions=self._functions))

    def get(self, key: str) -> bytes | None:
        value: bytes | None = self._ask(Command(key, functions=self._functions))
        return value

    def close(self) -> None:
        for node in (self._node, *self._sentinels):
            node.close()

    def _ask(self, command: Command) -> Any:
        deadline = monotonic() + self._timeout_seconds
        reply = self._node.ask(command.packed, deadline)
        if not isinstance(reply, ReplyError):
            return reply
        while following := command.following(reply):
            reply = self._node.ask(b"".join(following), deadline, len(following))
        if not isinstance(reply, ReplyError):
            return reply
        if code_of(reply) == "READONLY":
            self._node.retire()
        raise error_of(reply, command.what, self._node.where)
