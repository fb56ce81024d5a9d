"""UsageBox on a bad day: it stands before a sandbox and answers as it is told, fault by fault."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable

import httpx

FAULTS = ("429", "500", "hangs", "resets", "twice", "taken_unanswered")
"""`hangs`: nothing is taken and nothing answered. `resets`: it is taken, and the connection reset. `twice`: the same request
is taken two times. `taken_unanswered`: it is taken, and the answer never comes; who waits for it may be killed there."""


class FaultyUsageBox:
    """An ASGI app. `share` of the batches of usage meet a fault; `patience_seconds` is how long one hangs, after which the
    connection ends without an answer."""

    def __init__(self, url: str, seed: int, share: float, patience_seconds: float = 0.5) -> None:
        self.met: Counter[str] = Counter()
        self.share = share
        self.taken = threading.Event()
        """Set when a batch was taken and is not answered yet."""
        self._url = url
        self._chance = random.Random(seed)
        self._patience_seconds = patience_seconds

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        about_usage = scope["path"] == "/v1/usage/batch"
        fault = self._chance.choice(FAULTS) if about_usage and self._chance.random() < self.share else ""
        self.met[fault or "none"] += about_usage
        if fault in ("429", "500"):
            headers = [(b"content-type", b"text/plain")] + [(b"retry-after", b"0")] * (fault == "429")
            await _answer(send, int(fault), headers, b"Internal server error: a bad day")
            return
        if fault == "hangs":
            await self._leave(receive)
            await _cut(send)
            return
        response = await self._forward(scope, body)
        if fault == "twice":
            response = await self._forward(scope, body)
        if fault == "resets":
            _reset(send)
            await self._leave(receive)
            return
        if fault == "taken_unanswered":
            self.taken.set()
            await self._leave(receive)
            await _cut(send)
            return
        headers = [(name, value) for name, value in response.headers.raw if name.lower() == b"content-type"]
        await _answer(send, response.status_code, headers, response.content)

    async def _forward(self, scope, body: bytes) -> httpx.Response:
        query = scope["query_string"].decode()
        target = f"{self._url}{scope['raw_path'].decode()}{'?' + query if query else ''}"
        kept = (b"content-type", b"authorization", b"x-api-key", b"idempotency-key")
        headers = [(name, value) for name, value in scope["headers"] if name in kept]
        async with httpx.AsyncClient(timeout=20) as http:
            return await http.request(scope["method"], target, content=body, headers=headers)

    async def _leave(self, receive: Callable) -> None:
        """Until the caller is gone, or patience ends."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return


def _reset(send) -> None:
    """ASGI has no word for it, so the server's connection is taken from behind its `send`."""
    transport = send.__self__.transport
    if transport.is_closing():  # who asked was killed
        return
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _cut(send) -> None:
    """An answer that ends before it has begun: less than it announced, which ends the connection."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})


async def _answer(send, status: int, headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
