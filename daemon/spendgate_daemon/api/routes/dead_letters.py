"""Dead letters: what a sink refused for good, sink by sink; tried again or discarded by an administrator."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from litestar import Request, get, post
from litestar.params import FromPath

from spendgate.reasons import rfc3339
from spendgate_daemon.api.auth import principal_of
from spendgate_daemon.api.problems import Problem, invalid, not_found
from spendgate_daemon.api.reading import read_object, read_text
from spendgate_daemon.api.routes.overrides import MAX_REASON
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.overrides import MIN_REASON
from spendgate_daemon.store.dead_letters import DeadLetter
from spendgate_daemon.store.sources import SINKS

STATES: Final = ("dead", "discarded")

_log = structlog.get_logger("spendgate.dead_letters")


def handlers(services: Services) -> list[Any]:
    store = services.store

    async def show(*letters: DeadLetter) -> list[dict[str, Any]]:
        names = await asyncio.to_thread(store.customers.names, [each.customer_id for each in letters])
        return [_answer(each, names) for each in letters]

    async def known(sink: str, position: str) -> DeadLetter:
        numbered = position.isascii() and position.isdigit() and len(position) < 19
        letter = None
        if sink in SINKS and numbered:
            letter = await asyncio.to_thread(store.dead_letters.get, sink, int(position))
        if letter is None:
            raise not_found(f"{sink!r} has no dead letter at {position!r}")
        return letter

    @get("/v1/dead-letters", opt={"scope": "read"})
    async def listed(request: Request[Any, Any, Any]) -> dict[str, Any]:
        query = Query(request, frozenset({"sink", "state", "cursor", "limit"}))
        sink, cursor = query.one_of("sink", tuple(SINKS)), query.position()
        if sink is None:
            raise invalid("sink", f"one of {', '.join(SINKS)}")
        page = await asyncio.to_thread(
            lambda: store.dead_letters.page(
                sink,
                limit=query.limit(),
                before=int(cursor) if cursor is not None else None,
                state=query.one_of("state", STATES),
            )
        )
        return {"items": await show(*page.items), "next_cursor": page.next_cursor}

    @post("/v1/dead-letters/{sink:str}/retry", opt={"scope": "admin"}, status_code=200)
    async def retry_all(request: Request[Any, Any, Any], sink: FromPath[str]) -> dict[str, Any]:
        if sink not in SINKS:
            raise not_found(f"there is no sink {sink!r}; there are {', '.join(SINKS)}")
        retried = await asyncio.to_thread(store.dead_letters.retry, sink)
        _log.info("dead letters are tried again", sink=sink, number=retried, by=principal_of(request).name)
        return {"sink": sink, "retried": retried}

    @post("/v1/dead-letters/{sink:str}/{position:str}/retry", opt={"scope": "admin"}, status_code=200)
    async def retry(request: Request[Any, Any, Any], sink: FromPath[str], position: FromPath[str]) -> dict[str, Any]:
        letter = await known(sink, position)
        if not await asyncio.to_thread(store.dead_letters.retry, sink, [letter.position]):
            raise _over(letter)
        _log.info("a dead letter is tried again", sink=sink, item_id=letter.item_id, by=principal_of(request).name)
        return {"sink": sink, "retried": 1}

    @post("/v1/dead-letters/{sink:str}/{position:str}/discard", opt={"scope": "admin"}, status_code=200)
    async def discard(request: Request[Any, Any, Any], sink: FromPath[str], position: FromPath[str]) -> dict[str, Any]:
        value = read_object(await request.body(), frozenset({"reason"}), "a reason")
        reason = read_text("reason", value.get("reason"), MIN_REASON, MAX_REASON)
        letter, by = await known(sink, position), principal_of(request).name
        if not await asyncio.to_thread(store.dead_letters.discard, letter, by, reason, services.now_us()):
            raise _over(letter)
        return (await show(await known(sink, position)))[0]

    return [listed, retry_all, retry, discard]


def _over(letter: DeadLetter) -> Problem:
    told = f"it was discarded by {letter.discarded_by}" if letter.state == "discarded" else "it is tried again already"
    return Problem(409, "conflict", "The dead letter is over", f"{told}; nothing was done")


def _answer(letter: DeadLetter, names: dict[str, str]) -> dict[str, Any]:
    discarded_at_us = letter.discarded_at_us
    return {
        "sink": letter.sink,
        "position": letter.position,
        "item_id": letter.item_id,
        "state": letter.state,
        "attempts": letter.attempts,
        "at": rfc3339(letter.at_us),
        "error": letter.error,
        "customer_id": letter.customer_id,
        "customer_name": names.get(letter.customer_id, letter.customer_id),
        "decision_id": letter.decision_id,
        "discarded_by": letter.discarded_by,
        "discarded_at": rfc3339(discarded_at_us) if discarded_at_us is not None else None,
        "discard_reason": letter.discard_reason,
    }
