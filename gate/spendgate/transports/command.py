"""A command ready to be sent, and what it becomes where Redis does not know the script yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import hiredis

from spendgate.script import Script
from spendgate.transports.port import Argument


class Command:
    """`packed` is what to send, `what` names it in errors. Every command of the gate has one key."""

    __slots__ = ("_arguments", "_script", "key", "packed")

    def __init__(self, key: str, script: Script | None = None, arguments: Sequence[Argument] = ()) -> None:
        """A script, or GET."""
        self.key = key
        self._script = script
        self._arguments = arguments
        self.packed = pack("EVALSHA", script.sha, 1, key, *arguments) if script else pack("GET", key)

    @property
    def what(self) -> str:
        return f"script {self._script.name}" if self._script else "GET"

    def same_script(self, other: Command) -> bool:
        return self._script is not None and self._script is other._script

    def with_source(self) -> bytes:
        """The same with the whole script, for an answer of NOSCRIPT: that one did not run."""
        if self._script is None:
            return self.packed
        return pack("EVAL", self._script.source, 1, self.key, *self._arguments)


def pack(*words: Argument) -> bytes:
    """A command as Redis reads it. Raises UnicodeEncodeError for text that is no UTF-8."""
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows commands of one word
