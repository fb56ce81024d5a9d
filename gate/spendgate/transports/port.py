"""What the gate needs of Redis: run a script, read a key. Everything else in this folder does that.

No script is ever sent twice: one whose reply was lost may have run, and only the caller, who keeps the `event_id`,
can repeat it safely. The exceptions are replies that say that nothing ran: of an unknown script or function, MOVED and ASK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from spendgate.script import Script

Argument = str | bytes | int
"""Text goes out as UTF-8, a number as decimal text."""


class Transport(Protocol):
    """Runs scripts and reads keys for the tasks of one event loop.

    Replies are bytes, int, list or None, as in RESP2. Raises GateUnavailable when Redis did not take the command or did
    not answer within the timeout, ScriptFailed when it ran into an error, RuntimeError when used after `aclose`, or
    from a second event loop while the first one is open.
    """

    async def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any: ...

    async def get(self, key: str) -> bytes | None: ...

    async def aclose(self) -> None: ...


class SyncTransport(Protocol):
    """The same for threads, which may share one."""

    def run(self, script: Script, key: str, arguments: Sequence[Argument]) -> Any: ...

    def get(self, key: str) -> bytes | None: ...

    def close(self) -> None: ...
