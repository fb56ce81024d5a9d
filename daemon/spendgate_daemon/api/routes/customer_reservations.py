"""A customer's open reservations. One that is past its deadline and still here is marked: somebody forgot to end it."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import get
from litestar.params import FromPath

from spendgate.calls import OpenReservation
from spendgate.reasons import rfc3339
from spendgate_daemon.api.problems import not_found
from spendgate_daemon.api.reading import path_id
from spendgate_daemon.api.services import Services


def handlers(services: Services) -> list[Any]:
    @get("/v1/customers/{customer_id:str}/reservations", opt={"scope": "read"})
    async def listed(customer_id: FromPath[str]) -> dict[str, Any]:
        customer_id = path_id(customer_id)
        found, total = await services.gate.reservations(customer_id)
        if not total and await asyncio.to_thread(services.store.customers.get, customer_id) is None:
            raise not_found(f"there is no customer {customer_id!r}")
        now_us = services.now_us()
        return {"items": [_answer(each, now_us) for each in found], "total": total, "as_of": rfc3339(now_us)}

    return [listed]


def _answer(reservation: OpenReservation, now_us: int) -> dict[str, Any]:
    """`ends_at` is when the sweep ends it: a commit may be late by the plan's grace."""
    event = reservation.event
    return {
        "decision_id": reservation.decision_id,
        "event_id": event.event_id,
        "quantities": event.quantities,
        "metadata": event.metadata,
        "effective_at": rfc3339(reservation.effective_at_us),
        "deadline": rfc3339(reservation.deadline_us),
        "ends_at": rfc3339(reservation.ends_at_us),
        "overdue": reservation.deadline_us <= now_us,
    }
