"""One HTTP/1.1 connection that posts JSON, one request at a time.

A general client costs more processor time per request than the decision it asks for, and would show its own latency in
a report about the gate's. A connection is used by one task; after any error it is closed and never used again, because
an answer that comes late would be taken for the next one's.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httptools
import msgspec

MAX_ANSWER_BYTES: Final = 1024 * 1024


class ConnectionLost(OSError):
    """Nobody answered, or not in HTTP; the request may or may not have been done."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    retry_after_seconds: float | None
    body: bytes


class Target(msgspec.Struct, frozen=True):
    """Where requests go: a host, and the bytes of a request up to its length."""

    host: str
    port: int
    tls: bool
    head: bytes

    @classmethod
    def of(cls, url: str, path: str, key: str) -> Self:
        """Raises ValueError for an address that is none, or a key that no header can carry."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if not key.isascii() or not key.isprintable():
            raise ValueError("a key is ASCII text without spaces or line breaks")
        head = (
            f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: "
        )
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls, head.encode())


class Connection(asyncio.Protocol):
    def __init__(self, target: Target) -> None:
        self._target = target
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._retry_after_seconds: float | None = None

    @classmethod
    async def open(cls, target: Target) -> Connection:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if target.tls else None
        _, protocol = await loop.create_connection(lambda: cls(target), target.host, target.port, ssl=context)
        return protocol

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def post(self, body: bytes) -> Answer:
        """Raises ConnectionLost. Whoever gives up waiting closes the connection."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLost("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._target.head, len(body), body))
        return await self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (create_connection gives no other)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._fail(ConnectionLost(f"the answer is not HTTP: {exc}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionLost(f"the connection was closed: {exc or 'by the server'}"))

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after_seconds = float(value)

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > MAX_ANSWER_BYTES:
            self._fail(ConnectionLost(f"the answer is larger than {MAX_ANSWER_BYTES} bytes"))

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), self._retry_after_seconds, bytes(self._body))
        keep = self._parser.should_keep_alive()
        waiting, self._waiting = self._waiting, None
        self._body, self._retry_after_seconds = bytearray(), None
        if not keep:
            self.close()
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _fail(self, error: ConnectionLost) -> None:
        waiting, self._waiting = self._waiting, None
        self.close()
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
