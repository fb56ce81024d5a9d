"""A UsageBox that answers what was recorded, or what a test wants to go wrong, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """`body` of any kind but text is JSON. `waits`: it comes when somebody sets `released`."""

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    waits: bool = False


@dataclass
class Asked:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any
    client: tuple[str, int]


class RecordedUsageBox:
    """An ASGI app. `replies` by path, each list in order and its last one for ever; a path without any is a 404."""

    def __init__(self, **replies: Reply | Sequence[Reply]) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[Asked] = []
        self.arrived = threading.Event()
        self.released = threading.Event()
        for path, given in replies.items():
            self.on(path, given)

    def on(self, path: str, given: Reply | Sequence[Reply]) -> None:
        self.replies[path] = [given] if isinstance(given, Reply) else list(given)

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = json.loads(raw) if raw else None
        query = scope["query_string"].decode()
        self.asked.append(Asked(scope["method"], scope["path"], query, headers, body, tuple(scope["client"])))
        self.arrived.set()
        queue = self.replies.get(scope["path"], [Reply("Not Found", 404)])
        reply = queue.pop(0) if len(queue) > 1 else queue[0]
        if reply.waits:
            await asyncio.to_thread(self.released.wait)
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        kind = "text/plain; charset=utf-8" if isinstance(reply.body, str) else "application/json"
        sent = {"content-type": kind, "content-length": str(len(text.encode()))} | reply.headers
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            }
        )
        await send({"type": "http.response.body", "body": text.encode()})
