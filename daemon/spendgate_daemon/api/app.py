"""One ASGI app: the decision path first, litestar for the rest, problem details for whatever goes wrong."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
import structlog
from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute
from redis.exceptions import RedisError

from spendgate.errors import GateUnavailable, SpendgateError
from spendgate_daemon.api import openapi
from spendgate_daemon.api.asgi import (
    MAX_BODY_BYTES,
    App,
    Disconnected,
    Receive,
    ScopeDict,
    Send,
    headers_of,
    read_body,
    replayed,
    secured,
    send_problem,
)
from spendgate_daemon.api.auth import Authenticator
from spendgate_daemon.api.decisions import Decisions
from spendgate_daemon.api.fast_path import FastPath
from spendgate_daemon.api.metrics import PROBLEMS
from spendgate_daemon.api.problems import (
    CONTENT_TYPE,
    Problem,
    forbidden,
    internal,
    method_not_allowed,
    problem_of,
    unavailable,
)
from spendgate_daemon.api.reading import segmented
from spendgate_daemon.api.reservations import Reservations
from spendgate_daemon.api.routes import route_handlers
from spendgate_daemon.api.services import Services

ANSWER_SECONDS: Final = 20
"""A bound on everything that an answer waits for: queries, Redis, a thread."""

_SLUGS: Final = {400: "malformed", 404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "malformed"}

_log = structlog.get_logger("spendgate.api")


def create_app(services: Services) -> App:
    """The API over services that somebody else opens and closes."""
    authenticator = Authenticator(services.store.keys, services.now_us)
    decisions = Decisions(services)
    fast = FastPath(decisions.routes() | Reservations(services, decisions).routes(), authenticator)
    rest = Litestar(
        route_handlers=[*route_handlers(services), *openapi.handlers()],
        guards=[_guard(authenticator)],
        exception_handlers={
            Problem: _problem,
            SpendgateError: _gate_error,
            sa.exc.SQLAlchemyError: _store_error,
            RedisError: _redis_error,
            HTTPException: _http_error,
            Exception: _internal_error,
        },
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        openapi_config=None,
    )
    methods = _Methods(fast, rest)

    async def app(scope: ScopeDict, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await rest(scope, receive, send)  # type: ignore[arg-type]
            return
        if scope["path"].endswith("/") and scope["path"] != "/":
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        if fast.serves(scope):
            await fast(scope, receive, send)
        else:
            await _answer_rest(rest, methods, scope, receive, secured(send))

    return app


async def _answer_rest(rest: Litestar, methods: _Methods, scope: ScopeDict, receive: Receive, send: Send) -> None:
    """Give litestar a request whose method exists and whose body is here."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server leaves the body of a HEAD away
    answering = False

    async def watched(message: Any) -> None:
        nonlocal answering
        answering = True
        await send(message)

    try:
        path = segmented(scope["path"], scope.get("raw_path", b""))
        methods.check(method, path)
        body = await read_body(headers_of(scope), receive)
        async with asyncio.timeout(ANSWER_SECONDS):
            given = {**scope, "path": path, "method": method}
            await rest(given, replayed(body, receive), watched)  # type: ignore[arg-type]
    except Disconnected:
        return
    except Problem as problem:
        await send_problem(send, problem)
    except TimeoutError:
        _log.error("no answer in time", path=scope["path"])
        if not answering:
            await send_problem(send, unavailable("The API"))


class _Methods:
    """Which methods each path has, over both halves of the API: what a 405 has to say (RFC 9110, 15.5.6)."""

    def __init__(self, fast: FastPath, rest: Litestar) -> None:
        known: dict[str, set[str]] = {path: {"POST"} for path in fast.paths}
        for route in rest.routes:
            if isinstance(route, HTTPRoute):
                known.setdefault(route.path_format, set()).update(route.methods - {"OPTIONS"})
        literal_first = sorted(known, key=lambda path: ("{" in path, path))
        self._known: Sequence[tuple[re.Pattern[str], frozenset[str]]] = [
            (re.compile(re.sub(r"\\{[^/]+\\}", "[^/]+", re.escape(path))), frozenset(known[path]))
            for path in literal_first
        ]

    def check(self, method: str, path: str) -> None:
        """Raise the 405 problem when the path is known and has no such method."""
        for pattern, methods in self._known:
            if pattern.fullmatch(path):
                if method not in methods:
                    raise method_not_allowed(method, ", ".join(sorted(methods | _head(methods))))
                return


def _head(methods: frozenset[str]) -> set[str]:
    return {"HEAD"} if "GET" in methods else set()


def _guard(authenticator: Authenticator) -> Any:
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Every route names its scope, or says that it is public; an empty scope is any key."""
        scope = handler.opt.get("scope")
        if scope is None:
            if not handler.opt.get("public"):
                raise Problem(500, "internal", "Internal error", "this route names no scope")
            return
        principal = await authenticator.authenticate(connection.headers.get("authorization"))
        if scope:
            principal.require(scope)
        if principal.customer_id is not None and not handler.opt.get("bound"):
            raise forbidden("this key is bound to one customer")
        connection.state.principal = principal

    return guard


def _answer(problem: Problem) -> Response[bytes]:
    PROBLEMS.labels(str(problem.status), problem.slug).inc()
    return Response(problem.encode(), status_code=problem.status, media_type=CONTENT_TYPE, headers=problem.headers)


def _problem(_request: Request[Any, Any, Any], exc: Problem) -> Response[bytes]:
    return _answer(exc)


def _gate_error(_request: Request[Any, Any, Any], exc: SpendgateError) -> Response[bytes]:
    problem = unavailable("Redis") if isinstance(exc, GateUnavailable) else problem_of(exc)
    if problem.status >= 500:
        _log.error("the gate failed", error=str(exc))
    return _answer(problem)


def _store_error(request: Request[Any, Any, Any], exc: sa.exc.SQLAlchemyError) -> Response[bytes]:
    if isinstance(exc, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
        _log.error("the store failed", path=request.url.path, error=type(exc).__name__)
        return _answer(unavailable("The store"))
    return _internal_error(request, exc)


def _redis_error(request: Request[Any, Any, Any], exc: RedisError) -> Response[bytes]:
    _log.error("Redis failed", path=request.url.path, error=type(exc).__name__)
    return _answer(unavailable("Redis"))


def _http_error(_request: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
    if exc.status_code >= 500:
        _log.error("framework error", error=str(exc))
    slug = _SLUGS.get(exc.status_code, "invalid-input")
    field, detail = None, str(exc.detail)
    if isinstance(exc.extra, list) and exc.extra and isinstance(exc.extra[0], dict):
        field, detail = exc.extra[0].get("key"), str(exc.extra[0].get("message", detail))
    return _answer(Problem(exc.status_code, slug, detail.split(":")[0][:100] or "Error", detail, field=field))


def _internal_error(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    _log.error("unexpected error", path=request.url.path, exc_info=exc)
    return _answer(internal())
