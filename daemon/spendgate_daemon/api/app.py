"""One ASGI app: the decision path first, litestar for the rest, problem details for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig

from spendgate.errors import SpendgateError
from spendgate_daemon.api.auth import Authenticator
from spendgate_daemon.api.decisions import DecisionPath, Receive, ScopeDict, Send
from spendgate_daemon.api.metrics import PROBLEMS
from spendgate_daemon.api.problems import CONTENT_TYPE, Problem, problem_of
from spendgate_daemon.api.reading import MAX_BODY_BYTES
from spendgate_daemon.api.routes import route_handlers
from spendgate_daemon.api.services import Services

_SLUGS: Final = {400: "malformed", 404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "malformed"}

_log = structlog.get_logger("spendgate.api")

App = Callable[[ScopeDict, Receive, Send], Any]


def create_app(services: Services) -> App:
    """The API over services that somebody else opens and closes."""
    authenticator = Authenticator(services.store.keys, services.now_us)
    decisions = DecisionPath(services, authenticator)
    rest = Litestar(
        route_handlers=route_handlers(services),
        guards=[_guard(authenticator)],
        exception_handlers={
            Problem: _problem,
            SpendgateError: _gate_error,
            HTTPException: _http_error,
            Exception: _internal_error,
        },
        after_request=_secure,
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        openapi_config=OpenAPIConfig(title="Spendgate", version="1", path="/openapi-of-routes", render_plugins=[]),
    )

    async def app(scope: ScopeDict, receive: Receive, send: Send) -> None:
        if decisions.serves(scope):
            await decisions(scope, receive, send)
        else:
            await rest(scope, receive, send)  # type: ignore[arg-type]

    return app


def _guard(authenticator: Authenticator) -> Any:
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Every route names its scope, or says that it is public."""
        scope = handler.opt.get("scope")
        if scope is None:
            if not handler.opt.get("public"):
                raise Problem(500, "internal", "Internal error", "this route names no scope")
            return
        principal = await authenticator.authenticate(connection.headers.get("authorization"))
        if scope:
            principal.require(scope)
            if principal.customer_id is not None and not handler.opt.get("bound"):
                raise Problem(403, "forbidden", "This key may not do that", "this key is bound to one customer")
        connection.state.principal = principal

    return guard


def _answer(problem: Problem) -> Response[bytes]:
    PROBLEMS.labels(str(problem.status), problem.slug).inc()
    return Response(problem.encode(), status_code=problem.status, media_type=CONTENT_TYPE, headers=problem.headers)


def _problem(_request: Request[Any, Any, Any], exc: Problem) -> Response[bytes]:
    return _answer(exc)


def _gate_error(_request: Request[Any, Any, Any], exc: SpendgateError) -> Response[bytes]:
    problem = problem_of(exc)
    if problem.status >= 500:
        _log.error("the gate failed", error=str(exc))
    return _answer(problem)


def _http_error(_request: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
    if exc.status_code >= 500:
        _log.error("framework error", error=str(exc))
    slug = _SLUGS.get(exc.status_code, "invalid-input")
    field = None
    if isinstance(exc.extra, list) and exc.extra and isinstance(exc.extra[0], dict):
        field = exc.extra[0].get("key")
    detail = str(exc.detail)
    if field is not None:
        detail = str(exc.extra[0].get("message", detail))  # type: ignore[index]
    return _answer(Problem(exc.status_code, slug, detail.split(":")[0][:100] or "Error", detail, field=field))


def _internal_error(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    _log.error("unexpected error", path=request.url.path, exc_info=exc)
    return _answer(Problem(500, "internal", "Internal error", "The error was logged"))


def _secure(response: Response[Any]) -> Response[Any]:
    response.headers.setdefault("cache-control", "no-store")
    response.headers.setdefault("x-content-type-options", "nosniff")
    return response
