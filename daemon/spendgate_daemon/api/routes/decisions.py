"""Decisions that were made: newest first, and one with its trace, computed again from the stored inputs."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from litestar import Request, get
from litestar.params import FromPath

from spendgate.decision import Decision, reservation_answer
from spendgate.reasons import SENTENCES, rfc3339
from spendgate.record import decode_record
from spendgate_daemon.api.problems import not_found
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.store.decisions import StoredDecision

OUTCOMES: Final = ("allow", "throttle", "stop")

_DECISION_ID = re.compile(r"d\d{3}-(\d+-\d+)")


def handlers(services: Services) -> list[Any]:
    store = services.store

    @get("/v1/decisions", opt={"scope": "read"})
    async def listed(request: Request[Any, Any, Any]) -> dict[str, Any]:
        known = frozenset({"customer_id", "outcome", "reason", "cursor", "limit", "from", "to"})
        query = Query(request, known)
        page = await asyncio.to_thread(
            lambda: store.decisions.page(
                limit=query.limit(),
                cursor=query.position(),
                customer_id=query.text("customer_id"),
                outcome=query.one_of("outcome", OUTCOMES),
                reason=query.text("reason"),
                from_us=query.instant_us("from"),
                to_us=query.instant_us("to"),
            )
        )
        names = await asyncio.to_thread(store.customers.names, [item.customer_id for item in page.items])
        return {"items": [_row(item, names) for item in page.items], "next_cursor": page.next_cursor}

    @get("/v1/decisions/{decision_id:str}", opt={"scope": "read"})
    async def one(decision_id: FromPath[str]) -> dict[str, Any]:
        match = _DECISION_ID.fullmatch(decision_id)
        stored = await asyncio.to_thread(store.decisions.get, decision_id) if match is not None else None
        policy = await asyncio.to_thread(store.policies.effective, stored.policy_digest) if stored is not None else None
        if stored is None or policy is None or match is None:
            raise not_found(f"there is no decision {decision_id!r}; a decision is stored within a second of its answer")
        deliveries = await asyncio.to_thread(lambda: _deliveries(services, stored))
        names = await asyncio.to_thread(store.customers.names, [stored.customer_id])
        record = decode_record(stored.record)
        extra = {
            "customer_name": names.get(stored.customer_id, stored.customer_id),
            "kind": stored.kind,
            "count": stored.count,
            "verified": stored.verified,
            "mismatch": stored.verified is False,
            "deliveries": deliveries,
            "end": await asyncio.to_thread(_end, services, stored),
        }
        if record.event is None:
            return _row(stored, names) | extra
        facts = record.reservation
        effective_at_us = facts.effective_at_us if facts is not None else record.now_us
        return Decision("decided", match[1], record, policy, effective_at_us).answer() | extra

    return [listed, one]


def _row(item: StoredDecision, names: dict[str, str]) -> dict[str, Any]:
    sentence = SENTENCES.get(item.reason, item.reason)
    return {
        "decision_id": item.decision_id,
        "kind": item.kind,
        "at": rfc3339(item.at_us),
        "customer_id": item.customer_id,
        "customer_name": names.get(item.customer_id, item.customer_id),
        "outcome": item.outcome,
        "reason": item.reason,
        "message": _SHORT.get(item.reason, sentence),
        "limit_id": item.limit_id or None,
        "quantities": item.quantities,
        "mode": item.mode,
        "count": item.count,
        "mismatch": item.verified is False,
    }


def _end(services: Services, stored: StoredDecision) -> dict[str, Any] | None:
    """What became of the reservation that a decision gave; None while it is open, and for other decisions."""
    ended = services.store.decisions.end_of(stored) if stored.mode == "reserve" else None
    facts = decode_record(ended.record).reservation if ended is not None else None
    if ended is None or facts is None:
        return None
    told = {"decision_id": ended.decision_id, "at": rfc3339(ended.at_us), "reason": ended.reason}
    return reservation_answer(facts, stored.customer_id) | told


def _deliveries(services: Services, stored: StoredDecision) -> list[dict[str, Any]]:
    ids = [stored.decision_id, *(f"{stored.decision_id}:{meter}" for meter in stored.quantities)]
    return [
        {
            "sink": each.sink,
            "item_id": each.item_id,
            "state": each.state,
            "attempts": each.attempts,
            "error": each.error,
        }
        for each in services.store.deliveries.of_item(ids)
    ]


_SHORT: Final = {
    "quota_exceeded": "More than the quota has left.",
    "credits_exceeded": "More than the credit balance.",
    "rate_exceeded": "Faster than the rate allows.",
    "above_burst": "More than the rate ever lets through at once.",
    "event_too_large": "Larger than one event may be.",
}
"""For lists, where the numbers are in the row's own columns."""
