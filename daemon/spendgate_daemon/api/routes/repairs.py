"""Repairs of what counters held for reservations, and who was denied because of it."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, get
from litestar.params import FromPath

from spendgate.reasons import rfc3339
from spendgate.record import decode_record
from spendgate_daemon.api.problems import not_found
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.hindsight import Hindsight, hindsight_of, units_of
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
        names = await asyncio.to_thread(store.customers.names, [item.customer_id for item in page.items])
        return {"items": [_row(item, names) for item in page.items], "next_cursor": page.next_cursor}

    @get("/v1/repairs/{decision_id:str}", opt={"scope": "read"})
    async def one(decision_id: FromPath[str]) -> dict[str, Any]:
        stored = await asyncio.to_thread(store.decisions.get, decision_id)
        if stored is None or stored.kind != "repair":
            raise not_found(f"there is no repair {decision_id!r}")
        names = await asyncio.to_thread(store.customers.names, [stored.customer_id])
        return _row(stored, names) | _found(await asyncio.to_thread(hindsight_of, store, stored))

    return [listed, one]


def _row(item: StoredDecision, names: dict[str, str]) -> dict[str, Any]:
    repaired = decode_record(item.record).repaired
    return {
        "decision_id": item.decision_id,
        "at": rfc3339(item.at_us),
        "customer_id": item.customer_id,
        "customer_name": names.get(item.customer_id, item.customer_id),
        "units": units_of(repaired),
        "counters": [
            {
                "kind": each.kind,
                "limit_id": each.limit_id,
                "period_start": rfc3339(each.period_start_seconds * 1_000_000) if each.period_start_seconds else None,
                "value": each.value or None,
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
