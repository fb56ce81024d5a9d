"""Repairs of what counters held for reservations, and who was denied because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from litestar import Request, get
from litestar.params import FromPath

from spendgate.policy import EffectivePolicy
from spendgate.reasons import rfc3339
from spendgate.record import decode_record
from spendgate_daemon.api.problems import not_found
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.hindsight import Hindsight, hindsight_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.decisions import StoredDecision


def handlers(services: Services) -> list[Any]:
    store = services.store

    @get("/v1/repairs", opt={"scope": "read"})
    async def listed(request: Request[Any, Any, Any]) -> dict[str, Any]:
        query = Query(request, frozenset({"customer_id", "cursor", "limit"}))
        page = await asyncio.to_thread(
            lambda: store.decisions.page(
                limit=query.limit(), cursor=query.position(), customer_id=query.text("customer_id"), repairs=True
            )
        )
        return {"items": await asyncio.to_thread(_rows, store, page.items), "next_cursor": page.next_cursor}

    @get("/v1/repairs/{decision_id:str}", opt={"scope": "read"})
    async def one(decision_id: FromPath[str]) -> dict[str, Any]:
        stored = await asyncio.to_thread(store.decisions.get, decision_id)
        if stored is None or stored.kind != "repair":
            raise not_found(f"there is no repair {decision_id!r}")
        (row,) = await asyncio.to_thread(_rows, store, [stored])
        return row | _found(await asyncio.to_thread(hindsight_of, store, stored))

    return [listed, one]


def _rows(store: Store, items: Sequence[StoredDecision]) -> list[dict[str, Any]]:
    names = store.customers.names([item.customer_id for item in items])
    return [_row(item, names, store.policies.effective(item.policy_digest)) for item in items]


def _row(item: StoredDecision, names: dict[str, str], policy: EffectivePolicy | None) -> dict[str, Any]:
    repaired = decode_record(item.record).repaired
    return {
        "decision_id": item.decision_id,
        "at": rfc3339(item.at_us),
        "customer_id": item.customer_id,
        "customer_name": names.get(item.customer_id, item.customer_id),
        "counters": [
            {
                "kind": each.kind,
                "limit_id": each.limit_id,
                "period_start": rfc3339(each.period_start_seconds * 1_000_000) if each.period_start_seconds else None,
                "value": each.value or None,
                "unit": each.unit_in(policy),
                "before": each.before,
                "after": each.after,
            }
            for each in repaired
            if each.limit_id
        ],
        "calendar": any(not each.limit_id for each in repaired),
    }


def _found(hindsight: Hindsight) -> dict[str, Any]:
    return {
        "wrongly_denied": [
            {
                "decision_id": each.decision_id,
                "at": rfc3339(each.at_us),
                "event_id": each.event_id,
                "outcome": each.outcome,
                "reason": each.reason,
                "limit_id": each.limit_id,
                "quantities": each.quantities,
            }
            for each in hindsight.wrong
        ],
        "denials_looked_at": hindsight.looked_at,
        "denials_only_counted": hindsight.counted,
        "reservations_without_end": [
            {
                "decision_id": each.decision_id,
                "at": rfc3339(each.at_us),
                "event_id": each.event_id,
                "quantities": each.quantities,
            }
            for each in hindsight.without_end
        ],
    }
