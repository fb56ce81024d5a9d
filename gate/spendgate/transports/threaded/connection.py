"""One blocking connection, used by one thread: a command, then its reply.

It is closed at the first error, and so it never holds the reply of an earlier command. The deadline is that of the
whole call, however many pieces the reply comes in.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from time import monotonic
from typing import Any, Final

import hiredis

from spendgate.errors import Executed, GateUnavailable
from spendgate.transports import forks
from spendgate.transports.endpoint import Endpoint, tune
from spendgate.transports.session import Session

READ_BYTES: Final = 16 * 1024
TOLERANCE_SECONDS: Final = 0.001
"""A socket's timeout is set anew only when it is off by more: setting it is a system call."""
IDLE_SECONDS: Final = 0.01
"""After this long it is worth a system call to see whether Redis has closed the connection meanwhile."""


class Connection:
    """Over a socket that is connected already; `introduce` comes before the first command."""

    def __init__(self, connected: socket.socket, endpoint: Endpoint) -> None:
        self.connected_at = self._used_at = monotonic()
        self._socket = connected
        self._endpoint = endpoint
        self._set_timeout = _set_timeout_encrypted if isinstance(connected, ssl.SSLSocket) else _set_timeout
        self._timeout_seconds = 0.0
        self._reader = hiredis.Reader()
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._generation = forks.generation()
        self._is_busy = False
        self._is_closed = False

    def __del__(self) -> None:
        """A thread that ends takes its connection with it."""
        self._socket.close()

    def introduce(self, session: Session, deadline: float) -> None:
        """Raises GateUnavailable (executed "no") if Redis does not take the session, and is closed then."""
        greeting = session.greeting()
        try:
            session.check(self._ask(b"".join(greeting), deadline, len(greeting)))
        except GateUnavailable as exc:
            self.close()
            raise GateUnavailable(str(exc), "no") from exc

    def is_usable(self) -> bool:
        """False when it was closed from either side, or belongs to the parent of this process."""
        if self._is_closed or self._generation != forks.generation():
            return False
        # Nothing is owed, so what can be read is the end, or nothing that could be understood.
        return monotonic() - self._used_at < IDLE_SECONDS or not self._poll.poll(0)

    def ask(self, command: bytes, deadline: float, replies: int = 1) -> Any:
        """The last reply to packed commands, a ReplyError as a value. Raises GateUnavailable, and is closed then."""
        return self._ask(command, deadline, replies)[-1]

    def close(self) -> None:
        """May be called from any thread: one that waits for a reply gets GateUnavailable. Idempotent."""
        self._is_closed = True
        if self._is_busy:
            # Closing would not wake the thread that waits, and would free the number of its socket for others.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        else:
            self._socket.close()

    def _ask(self, command: bytes, deadline: float, replies: int) -> list[Any]:
        self._is_busy = True
        is_complete = False
        try:
            answers = self._exchange(command, deadline, replies)
            is_complete = True
        finally:
            self._is_busy = False
            # Whatever ended it, a reply may still be on its way.
            if not is_complete or self._is_closed:
                self.close()
        self._used_at = monotonic()
        return answers

    def _exchange(self, command: bytes, deadline: float, replies: int) -> list[Any]:
        executed: Executed = "no"
        try:
            self._limit(deadline)
            # If this fails, Redis has not got the whole command, and does not run a part of it.
            self._socket.sendall(command)
            executed = "unknown"
            return [self._read(deadline) for _ in range(replies)]
        except (TimeoutError, BlockingIOError):
            raise GateUnavailable(f"Redis at {self._endpoint} did not answer in time", executed) from None
        except (OSError, EOFError, hiredis.ProtocolError) as exc:
            raise GateUnavailable(f"no answer: the connection to Redis at {self._endpoint}: {exc}", executed) from exc

    def _read(self, deadline: float) -> Any:
        while (reply := self._reader.gets()) is False:
            self._limit(deadline)
            data = self._socket.recv(READ_BYTES)
            if not data:
                raise EOFError("Redis closed it")
            self._reader.feed(data)
        return reply

    def _limit(self, deadline: float) -> None:
        """Let the next operation of the socket take no longer than until the deadline."""
        seconds = _remaining(deadline)
        if abs(seconds - self._timeout_seconds) > TOLERANCE_SECONDS:
            self._set_timeout(self._socket, seconds)
            self._timeout_seconds = seconds


def _set_timeout(connected: socket.socket, seconds: float) -> None:
    """By the kernel, whose sign of it is BlockingIOError: a timeout of Python's costs a poll before every operation."""
    connected.settimeout(None)
    limit = struct.pack("@ll", int(seconds), max(1, int(seconds % 1 * 1_000_000)))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _set_timeout_encrypted(connected: socket.socket, seconds: float) -> None:
    """By Python, because an encrypted operation is several of the socket's."""
    connected.settimeout(seconds)


def _remaining(deadline: float) -> float:
    seconds = deadline - monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def connect_socket(endpoint: Endpoint, session: Session, deadline: float) -> socket.socket:
    """A connected socket, encrypted if the session says so; raises OSError. No deadline ends the resolution of a name."""
    if endpoint.path is not None:
        places: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", endpoint.path)]
    else:
        places = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    problem = OSError(f"{endpoint} has no address")
    for family, kind, protocol, _, place in places:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_remaining(deadline))
            connection.connect(place)
            tune(connection)
            if session.tls is None or endpoint.path is not None:
                return connection
            connection.settimeout(_remaining(deadline))
            return session.tls.wrap_socket(connection, server_hostname=endpoint.host)
        except OSError as exc:
            connection.close()
            problem = exc
    raise problem
