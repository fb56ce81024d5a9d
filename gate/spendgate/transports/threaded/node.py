"""One Redis, as threads use it: a connection for each, made on first use and made again when lost."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from spendgate.errors import GateUnavailable
from spendgate.transports.attempts import Attempts
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.session import Session
from spendgate.transports.threaded.connection import Connection, connect_socket

MIN_LIFE_SECONDS: Final = 1.0
"""A connection to a replica is left after this time, not at once: what cannot be reached otherwise is not hammered."""

Locate = Callable[[float], Endpoint]
"""Finds a Redis, until a deadline."""


class ThreadedNode:
    """Any thread may use it; its connection is closed when the thread ends. Deadlines are times of `time.monotonic`.

    `where` names it in errors; `locate` finds it, anew for each connection. No lock is held while a thread forks or
    waits: what threads share are counters, and a table by thread.
    """

    def __init__(self, where: object, locate: Locate, session: Session) -> None:
        self.where = where
        self._locate = locate
        self._session = session
        self._attempts = Attempts()
        self._local = threading.local()
        self._connections: weakref.WeakValueDictionary[int, Connection] = weakref.WeakValueDictionary()
        self._is_closed = False

    def ask(self, command: bytes, deadline: float, replies: int = 1) -> Any:
        """The last reply to packed commands, a ReplyError as a value. Raises GateUnavailable."""
        if self._is_closed:
            raise RuntimeError("the transport is closed")
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None and not connection.is_usable():
            connection.close()  # Redis may have ended it while it was idle
            connection = None
        if connection is None:
            connection = self._connect(deadline)
        return connection.ask(command, deadline, replies)

    def retire(self) -> None:
        """The Redis of this thread is no master any more: connect anew, to wherever `locate` points by then."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None and monotonic() - connection.connected_at >= MIN_LIFE_SECONDS:
            connection.close()

    def close(self) -> None:
        """Close the connections of all threads; those that wait get GateUnavailable. Idempotent."""
        self._is_closed = True
        for reference in self._connections.valuerefs():
            connection = reference()
            if connection is not None:
                connection.close()

    def _connect(self, deadline: float) -> Connection:
        if not self._attempts.claim(monotonic()):
            raise GateUnavailable(self._attempts.last_error, "no")
        error = f"cannot connect to Redis at {self.where}"
        try:
            endpoint = self._locate(deadline)
            connection = Connection(connect_socket(endpoint, self._session, deadline), endpoint)
            # From here on, `close` ends it.
            self._connections[threading.get_ident()] = connection
            if self._is_closed:
                connection.close()
            connection.introduce(self._session, deadline)
        except TimeoutError:
            self._attempts.failed(f"{error}: it did not answer in time")
            raise GateUnavailable(self._attempts.last_error, "no") from None
        except (OSError, ValueError, GateUnavailable) as exc:
            self._attempts.failed(f"{error}: {exc}")
            raise GateUnavailable(self._attempts.last_error, "no") from exc
        self._attempts.succeeded()
        self._local.connection = connection
        return connection
