"""A command ready to be sent, and what it becomes where Redis does not know the script yet.

A script is called as a function of its library (Redis 7 and later), which keeps what it has made from call to call, or by
its SHA-1 where Redis has no functions or the account may not use them. What is unknown is sent with its source, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, cast

import hiredis

from spendgate.script import Script
from spendgate.transports.port import Argument
from spendgate.transports.replies import code_of

ABSENT_SECONDS: Final = 60.0
"""A Redis that ran no function is asked for one again after so long: it may be another by then."""


class Functions:
    """Whether the Redis of one transport runs functions."""

    __slots__ = ("_absent_until",)

    def __init__(self) -> None:
        self._absent_until = float("-inf")

    @property
    def usable(self) -> bool:
        return monotonic() >= self._absent_until

    def are_absent(self) -> None:
        self._absent_until = monotonic() + ABSENT_SECONDS


class Command:
    """`packed` is what to send, `what` names it in errors. Every command of the gate has one key."""

    __slots__ = ("_arguments", "_functions", "_loads", "_script", "carried", "key", "packed")

    def __init__(
        self, key: str, script: Script | None = None, arguments: Sequence[Argument] = (), *, functions: Functions
    ) -> None:
        """A script, or GET."""
        self.key = key
        self.carried = ""
        """Names the source that is in what `following` gave last."""
        self._script = script
        self._arguments = arguments
        self._functions = functions
        self._loads: tuple[str, ...] = ()
        if script is None:
            self.packed = pack("GET", key)
        elif script.function is not None and functions.usable:
            self.packed = pack("FCALL", script.function, 1, key, *arguments)
        else:
            self.packed = pack("EVALSHA", script.sha, 1, key, *arguments)

    @property
    def what(self) -> str:
        return f"script {self._script.name}" if self._script else "GET"

    def is_unknown(self, reply: Any) -> bool:
        """Whether a reply says that Redis does not know the script, so that it did not run."""
        return isinstance(reply, hiredis.ReplyError) and (
            code_of(reply) == "NOSCRIPT" or str(reply).startswith("ERR Function not found")
        )

    def following(self, reply: Any) -> tuple[bytes, ...]:
        """What to send instead where a reply says that it did not run because Redis doesn't know it: commands for one turn,
        of which the last is the command itself. Empty where the reply is its answer."""
        script = self._script
        if script is None or not isinstance(reply, hiredis.ReplyError):
            return ()
        text, arguments = str(reply), (1, self.key, *self._arguments)
        if text.startswith("NOSCRIPT "):
            return self._carrying(script.sha, pack("EVAL", script.source, *arguments))
        is_missing = text.startswith("ERR Function not found")
        if is_missing and script.library is not None:
            load = self._carrying(script.library.name, pack("FUNCTION", "LOAD", script.library.source), self.packed)
            if load:
                return load
        if is_missing or (text.startswith(("ERR unknown command", "NOPERM ")) and "fcall" in text.lower()):
            self._functions.are_absent()
            self.carried = ""
            self.packed = pack("EVALSHA", script.sha, *arguments)
            return (self.packed,)
        return ()

    def _carrying(self, source: str, *commands: bytes) -> tuple[bytes, ...]:
        """These, unless the source was sent already."""
        if source in self._loads:
            return ()
        self._loads = (*self._loads, source)
        self.carried = source
        return commands


def pack(*words: Argument) -> bytes:
    """A command as Redis reads it. Raises UnicodeEncodeError for text that is no UTF-8."""
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows commands of one word
