"""The yardstick for HTTP: httptools and nothing else, doing the same work as the API: read, decide, answer.

python bare_server.py REDIS_URL     prints its port, then serves until it is killed
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httptools
import msgspec
import uvloop

from spendgate import Gate, usage_event


class Connection(asyncio.Protocol):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        task = asyncio.get_running_loop().create_task(self._answer(body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, body: bytes) -> None:
        value = json.loads(body)
        event = usage_event(
            value["customer_id"],
            value["meter"],
            value["quantity"],
            event_id=value["event_id"],
            metadata=value["metadata"],
        )
        answer = msgspec.json.encode((await self._gate.submit(event)).answer())
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
        self._transport.write(head.encode() + answer)


async def main(url: str) -> None:
    gate = Gate.from_url(url, timeout_seconds=5)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(gate), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
