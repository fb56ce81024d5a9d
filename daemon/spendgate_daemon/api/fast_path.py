"""What is in every agent's loop: plain ASGI, without a framework's share of each answer.

A path names a handler; this is what surrounds all of them: who calls, a bounded body, and problem details for whatever
goes wrong.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from spendgate.errors import SpendgateError
from spendgate_daemon.api.asgi import (
    Disconnected,
    Receive,
    ScopeDict,
    Send,
    headers_of,
    read_body,
    send_answer,
    send_problem,
)
from spendgate_daemon.api.auth import Authenticator, Principal
from spendgate_daemon.api.metrics import DECISION_SECONDS
from spendgate_daemon.api.problems import Problem, internal, problem_of

Answer = tuple[int, dict[str, Any], dict[str, str]]
"""Status, body, headers."""

SEGMENT: Final = "{reservation_id}"
"""The one variable segment, the last but one of a path that has it."""

_log = structlog.get_logger("spendgate.api.decisions")


class Call(msgspec.Struct, frozen=True):
    """One request, whole. `headers` by lower-case name; `segment` is what the path has in place of SEGMENT."""

    principal: Principal
    headers: dict[str, str]
    body: bytes
    segment: str = ""


Handler = Callable[[Call], Awaitable[Answer]]


class FastPath:
    """Serves POST to each of `routes`: path, perhaps with SEGMENT, → handler."""

    def __init__(self, routes: Mapping[str, Handler], authenticator: Authenticator) -> None:
        self._routes = dict(routes)
        self._authenticator = authenticator

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._routes)

    def serves(self, scope: ScopeDict) -> bool:
        return scope["method"] == "POST" and self._find(scope["path"]) is not None

    async def __call__(self, scope: ScopeDict, receive: Receive, send: Send) -> None:
        """Answer a request that `serves` took."""
        started = time.perf_counter()
        headers = headers_of(scope)
        found = self._find(scope["path"])
        if found is None:
            raise LookupError(f"{scope['path']} is not on the fast path")
        handler, segment = found
        try:
            principal = await self._authenticator.authenticate(headers.get("authorization"))
            body = await read_body(headers, receive)
            status, answer, extra = await handler(Call(principal, headers, body, segment))
            encoded = msgspec.json.encode(answer)
        except Disconnected:
            return
        except Problem as problem:
            await send_problem(send, problem)
        except SpendgateError as exc:
            translated = problem_of(exc)
            if translated.status >= 500:
                _log.error("not decided", error=str(exc))
            await send_problem(send, translated)
        except Exception as exc:  # noqa: BLE001  # the boundary of a request: logged, counted, answered
            _log.error("unexpected error", path=scope["path"], exc_info=exc)
            await send_problem(send, internal())
        else:
            await send_answer(send, status, encoded, "application/json", extra)
        finally:
            DECISION_SECONDS.observe(time.perf_counter() - started)

    def _find(self, path: str) -> tuple[Handler, str] | None:
        handler = self._routes.get(path)
        if handler is not None:
            return handler, ""
        parent, _, last = path.rpartition("/")
        parent, _, segment = parent.rpartition("/")
        handler = self._routes.get(f"{parent}/{SEGMENT}/{last}")
        return (handler, segment) if handler is not None else None
