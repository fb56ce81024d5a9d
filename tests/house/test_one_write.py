"""A response is one write; what is written alone is not kept waiting, and nothing is lost at the end of a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from serving import serve
from spendgate_daemon import one_write

PARTS = (b"first", b"second")


class App:
    """A short answer, or one in parts, each of which a client has to see before the next is made."""

    def __init__(self) -> None:
        self.seen = asyncio.Semaphore(0)
        self.loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope, receive, send) -> None:
        message = await receive()
        if scope["type"] == "lifespan":
            self.loop = asyncio.get_running_loop()
            while True:
                await send({"type": f"{message['type']}.complete"})
                message = await receive()
        elif scope["path"] == "/short":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"short"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in PARTS:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                await self.seen.acquire()
            await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def client(app) -> Iterator[socket.socket]:
    with serve(app) as url, socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=20) as made:
        yield made


def read_until(client: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        more = client.recv(4096)
        assert more, received
        received += more
    return received


def test_a_response_is_one_write(monkeypatch, client):
    written: list[bytes] = []

    class Noted:
        """A transport whose writes are noted."""

        def __init__(self, transport) -> None:
            self.transport = transport

        def write(self, data) -> None:
            written.append(data)
            self.transport.write(data)

        def __getattr__(self, name):
            return getattr(self.transport, name)

    joining = one_write.JoiningTransport
    monkeypatch.setattr(one_write, "JoiningTransport", lambda transport: joining(Noted(transport)))
    with socket.create_connection(client.getpeername(), timeout=20) as noted:
        for _ in range(3):
            noted.sendall(b"GET /short HTTP/1.1\r\nhost: x\r\n\r\n")
            assert read_until(noted, b"short").startswith(b"HTTP/1.1 200")
    assert [each.endswith(b"\r\n\r\nshort") for each in written] == [True] * 3


def test_parts_of_a_stream_are_seen_as_they_come(app, client):
    client.sendall(b"GET /parts HTTP/1.1\r\nhost: x\r\n\r\n")
    for part in PARTS:
        read_until(client, part + b"\r\n")
        app.loop.call_soon_threadsafe(app.seen.release)
    read_until(client, b"0\r\n\r\n")


def test_the_last_response_of_a_connection_arrives_whole(client):
    client.sendall(b"GET /short HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert read_until(client, b"short").startswith(b"HTTP/1.1 200")
    assert client.recv(1) == b""
