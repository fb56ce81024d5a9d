"""Guardrail events, newest first."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from litestar import Request, get

from spendgate.reasons import rfc3339
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.store.guardrail_events import GuardrailEvent

KINDS: Final = (
    "stopped",
    "throttled",
    "resumed",
    "suspended",
    "threshold_crossed",
    "overage_started",
    "override_on",
    "override_off",
    "repair",
    "delivery_discarded",
    "duplicate",
    "corrected",
)


def handlers(services: Services) -> list[Any]:
    store = services.store

    @get("/v1/guardrail-events", opt={"scope": "read"})
    async def listed(request: Request[Any, Any, Any]) -> dict[str, Any]:
        query = Query(request, frozenset({"customer_id", "kind", "cursor", "limit"}))
        page = await asyncio.to_thread(
            lambda: store.guardrail_events.page(
                limit=query.limit(),
                cursor=query.position(),
                customer_id=query.text("customer_id"),
                kind=query.one_of("kind", KINDS),
            )
        )
        names = await asyncio.to_thread(store.customers.names, [item.customer_id for item in page.items])
        return {"items": [_answer(item, names) for item in page.items], "next_cursor": page.next_cursor}

    return [listed]


def _answer(item: GuardrailEvent, names: dict[str, str]) -> dict[str, Any]:
    return {
        "id": item.id,
        "at": rfc3339(item.at_us),
        "customer_id": item.customer_id,
        "customer_name": names.get(item.customer_id, item.customer_id),
        "kind": item.kind,
        "limit_id": item.limit_id,
        "from_state": item.from_state,
        "to_state": item.to_state,
        "decision_id": item.decision_id,
        "override_id": item.override_id,
        "message": item.message,
    }
