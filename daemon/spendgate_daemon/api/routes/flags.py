"""Flags over HTTP: OFREP for any OpenFeature client, and the definition that flagd polls."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.params import FromPath

from spendgate.errors import InvalidEvent, SpendgateError
from spendgate_daemon.api.auth import principal_of
from spendgate_daemon.api.problems import Problem, malformed
from spendgate_daemon.api.reading import read_json
from spendgate_daemon.api.services import Services
from spendgate_daemon.mirror.policy_book import PolicyBook, stored_document
from spendgate_flags.derive import Flag, flags_of
from spendgate_flags.flagd import DefinitionTooLarge, definition_of, etag_of
from spendgate_flags.ofrep import Evaluation, error, evaluate_all, evaluate_one, targeting_key_of

STOPPED_PAGE: Final = 1000
MAX_STOPPED: Final = 100_000
_ANY_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Plan tables have no periods in them, so any instant compiles to the same."""


def handlers(services: Services) -> list[Any]:
    async def flags_for(request: Request[Any, Any, Any]) -> dict[str, Flag] | Evaluation:
        """The customer's flags, or the evaluation error that OFREP has for it."""
        try:
            body = await read_context(request)
        except Problem as problem:
            return error(400, "PARSE_ERROR", problem.detail)
        customer_id = targeting_key_of(body)
        if customer_id is None:
            return error(400, "TARGETING_KEY_MISSING", "context.targetingKey must be the customer's id")
        bound_to = principal_of(request).customer_id
        if bound_to is not None and bound_to != customer_id:
            return error(403, "INVALID_CONTEXT", "this key is bound to another customer")
        try:
            return flags_of(await services.gate.snapshot(customer_id))
        except InvalidEvent as exc:
            return error(400, "INVALID_CONTEXT", str(exc).replace("customer_id", "context.targetingKey"))
        except SpendgateError as exc:
            return error(503, "PROVIDER_NOT_READY", str(exc))

    @post("/ofrep/v1/evaluate/flags", opt={"scope": "flags", "bound": True}, status_code=200)
    async def evaluate_bulk(request: Request[Any, Any, Any]) -> Response[bytes]:
        flags = await flags_for(request)
        if isinstance(flags, Evaluation):
            return _response(flags)
        context = (await read_context(request)).get("context")
        return _response(evaluate_all(flags, context, request.headers.get("if-none-match")))

    @post("/ofrep/v1/evaluate/flags/{key:str}", opt={"scope": "flags", "bound": True}, status_code=200)
    async def evaluate(request: Request[Any, Any, Any], key: FromPath[str]) -> Response[bytes]:
        flags = await flags_for(request)
        return _response(flags if isinstance(flags, Evaluation) else evaluate_one(flags, key))

    @get("/flagd/flags.json", opt={"scope": "flags"})
    async def flagd(request: Request[Any, Any, Any]) -> Response[bytes]:
        try:
            definition = await asyncio.to_thread(lambda: flagd_definition(services))
        except DefinitionTooLarge as exc:
            raise Problem(507, "too-many-stopped", "Too many stopped customers for flagd", str(exc)) from exc
        etag = etag_of(definition)
        if etag in (request.headers.get("if-none-match") or ""):
            return Response(b"", status_code=304, headers={"etag": etag})
        return Response(definition, media_type="application/json", headers={"etag": etag})

    return [evaluate_bulk, evaluate, flagd]


async def read_context(request: Request[Any, Any, Any]) -> Any:
    """The body of an evaluation. Raises problems, also for text that is half a character: it has no ETag."""
    body = await request.body()
    value = read_json(body)
    if b"\\u" in body:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise malformed("the body has a lone surrogate in its text") from exc
    return value


def flagd_definition(services: Services) -> bytes:
    """Who is stopped or suspended by the last observation, and what each plan allows without contractual caps."""
    stopped: list[str] = []
    for state in ("stopped", "suspended"):
        cursor: str | None = None
        while len(stopped) < MAX_STOPPED:
            page = services.store.customers.page(limit=STOPPED_PAGE, cursor=cursor, state=state, sort="name")
            stopped += [item.customer.customer_id for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
    document = stored_document(services.store)
    if document is None:
        return definition_of(stopped, {}, "none")
    book = PolicyBook(document, lambda: _ANY_TIME)
    plans = {plan: book.compile(plan, {}) for plan in document.plans}
    return definition_of(stopped, plans, document.digest)


def _response(evaluation: Evaluation) -> Response[bytes]:
    headers = {"etag": evaluation.etag} if evaluation.etag is not None else {}
    return Response(evaluation.body, status_code=evaluation.status, media_type="application/json", headers=headers)
