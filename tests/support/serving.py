"""Serve an ASGI app on a free port of the loopback, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn

from spendgate_daemon.one_write import OneWriteProtocol


@contextlib.contextmanager
def serve(app: Any, closing: Sequence[Callable[[], Awaitable[None]]] = ()) -> Iterator[str]:
    """Base URL of the app while the block runs; `closing` runs at the end, on the app's own loop."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

        async def shutdown(self, sockets=None):
            await super().shutdown(sockets)
            for close in closing:
                await close()

    server = Server(uvicorn.Config(app, http=OneWriteProtocol, log_level="warning", lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert started.wait(20), "the app did not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
