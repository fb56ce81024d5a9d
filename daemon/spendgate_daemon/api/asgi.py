"""The plain ASGI below both halves of the API: a bounded body before anything is done, one way to send, and the headers
that are on every answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from spendgate_daemon.api.metrics import PROBLEMS
from spendgate_daemon.api.problems import CONTENT_TYPE, Problem, too_large, too_slow

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10
"""A whole body arrives within this, or is not waited for."""

ScopeDict = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[ScopeDict, Receive, Send], Awaitable[None]]

SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""Answers are data about somebody's money: nobody stores, renders, frames or mentions them."""


class Disconnected(Exception):
    """The caller is gone before its request was whole; there is nobody to answer."""


def headers_of(scope: ScopeDict) -> dict[str, str]:
    """Header values by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


async def read_body(headers: Mapping[str, str], receive: Receive) -> bytes:
    """The whole body, at most MAX_BODY_BYTES of it whatever its content-length says. Raises the 413 and 408 problems,
    and Disconnected: a part of a body is never acted upon."""
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 9 or int(announced) > MAX_BODY_BYTES):
        raise too_large(MAX_BODY_BYTES)
    chunks: list[bytes] = []
    size_bytes, more = 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                chunk = message.get("body", b"")
                size_bytes += len(chunk)
                if size_bytes > MAX_BODY_BYTES:
                    raise too_large(MAX_BODY_BYTES)
                chunks.append(chunk)
                more = message.get("more_body", False)
    except TimeoutError as exc:
        raise too_slow(BODY_SECONDS) from exc
    return b"".join(chunks)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A receive that gives a body which was read already, and then whatever comes."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def secured(send: Send) -> Send:
    """A send that adds the security headers which an answer does not have yet."""

    async def add(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            message["headers"] = headers + [pair for pair in SECURITY_HEADERS if pair[0] not in present]
        await send(message)

    return add


async def send_answer(send: Send, status: int, body: bytes, content_type: str, extra: Mapping[str, str]) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *SECURITY_HEADERS,
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in extra.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem) -> None:
    PROBLEMS.labels(str(problem.status), problem.slug).inc()
    await send_answer(send, problem.status, problem.encode(), CONTENT_TYPE, problem.headers)
