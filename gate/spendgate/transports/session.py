"""What a new connection says before it is used, and what the answers must be.

The last command always asks for an answer, so commands of the gate are only sent to a Redis that has just answered:
while it hangs or loads its data, they are refused as not executed, instead of being sent into the unknown.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any, Final

import hiredis
import msgspec

from spendgate.errors import GateUnavailable
from spendgate.transports.command import pack

HANDSHAKE_SECONDS: Final = 1.0
"""A connection attempt may take this long, or one timeout if that is longer. It outlives the callers that wait for it, so
that a timeout shorter than a TLS handshake does not keep a connection from ever being made."""


class Session(msgspec.Struct, frozen=True):
    """Credentials, database and encryption of a connection. `masters_only` refuses replicas."""

    username: str | None = None
    password: str | None = None
    db: int = 0
    client_name: str | None = None
    tls: ssl.SSLContext | None = None
    masters_only: bool = False

    def __repr__(self) -> str:
        """Without the password: this ends up in tracebacks and logs."""
        return f"Session(username={self.username!r}, db={self.db}, tls={self.tls is not None})"

    def greeting(self) -> list[bytes]:
        """The packed commands to send, in this order."""
        commands: list[tuple[str | int, ...]] = []
        if self.username:
            commands.append(("AUTH", self.username, self.password or ""))
        elif self.password:
            commands.append(("AUTH", self.password))
        if self.client_name:
            commands.append(("CLIENT", "SETNAME", self.client_name))
        if self.db:
            commands.append(("SELECT", self.db))
        commands.append(("ROLE",) if self.masters_only else ("PING",))
        return [pack(*command) for command in commands]

    def check(self, replies: Sequence[Any]) -> None:
        """Raise GateUnavailable if the connection can't be used after these answers, errors in place of missing ones."""
        *answers, last = replies
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._refused(answer)
            if isinstance(answer, Exception):
                raise answer
        if isinstance(last, hiredis.ReplyError):
            # An account that may run scripts need not be allowed to PING.
            if self.masters_only or not str(last).startswith("NOPERM "):
                raise self._refused(last)
        elif isinstance(last, Exception):
            raise last
        elif self.masters_only and last[0] != b"master":
            raise GateUnavailable(f"it is a {last[0].decode()}, not the master", "no")

    def _refused(self, error: hiredis.ReplyError) -> GateUnavailable:
        # A server that does not know AUTH quotes its arguments in the error.
        text = str(error)
        return GateUnavailable(text.replace(self.password, "***") if self.password else text, "no")
