"""Decisions that were made: newest first, and one with its trace, computed again from the stored inputs."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from litestar import Request, get
from litestar.params import FromPath

from spendgate.decision import Decision, reservation_answer
from spendgate.keys import stream_id_of
from spendgate.reasons import REASONS, rfc3339
from spendgate.record import decode_record
from spendgate_daemon.api.problems import not_found
from spendgate_daemon.api.routes.corrections import correction_row
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.store.decisions import StoredDecision

OUTCOMES: Final = ("allow", "throttle", "stop")


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
        stream_id = stream_id_of(decision_id)
        stored = await asyncio.to_thread(store.decisions.get, decision_id) if stream_id is not None else None
        policy = await asyncio.to_thread(store.policies.effective, stored.policy_digest) if stored is not None else None
        if stored is None or policy is None or stream_id is None:
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
            "corrections": await asyncio.to_thread(_corrections, services, stored),
        }
        record = decode_record(stored.record)
        if record.event is None:
            return _row(stored, names) | extra
        facts = record.reservation
        effective_at_us = facts.effective_at_us if facts is not None else record.now_us
        return Decision("decided", stream_id, record, policy, effective_at_us).answer() | extra

    return [listed, one]


def _row(item: StoredDecision, names: dict[str, str]) -> dict[str, Any]:
    reason = REASONS.get(item.reason)
    return {
        "decision_id": item.decision_id,
        "kind": item.kind,
        "at": rfc3339(item.at_us),
        "customer_id": item.customer_id,
        "customer_name": names.get(item.customer_id, item.customer_id),
        "outcome": item.outcome,
        "reason": item.reason,
        "message": reason.in_lists if reason is not None else item.reason,
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


def _corrections(services: Services, stored: StoredDecision) -> list[dict[str, Any]]:
    """Those that put this decision right; of a correction's own record, itself."""
    made = services.store.corrections.made_by(stored.decision_id) if stored.mode == "correct" else None
    found = [made] if made is not None else services.store.corrections.of(stored.decision_id)
    return [correction_row(each) for each in found]


def _deliveries(services: Services, stored: StoredDecision) -> list[dict[str, Any]]:
    ids = [stored.decision_id, *(f"{stored.decision_id}:{meter}" for meter in stored.quantities)]
    return [
        {
            "sink": each.sink,
            "item_id": each.item_id,
            "state": each.state,
            "attempts": each.attempts,
            "error": each.error,
            "correction_id": each.correction_id,
        }
        for each in services.store.deliveries.of_item(ids)
    ]
