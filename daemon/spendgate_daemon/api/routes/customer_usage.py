"""One customer's usage over time, from the rollups."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from litestar import Request, get
from litestar.params import FromPath

from spendgate.reasons import rfc3339
from spendgate_daemon.api.problems import invalid
from spendgate_daemon.api.reading import path_id
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.store.usage import MAX_POINTS

STEPS: Final = {"minute": 60, "hour": 3600, "day": 86_400}


def handlers(services: Services) -> list[Any]:
    store = services.store

    @get("/v1/customers/{customer_id:str}/usage", opt={"scope": "read"})
    async def usage(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> dict[str, Any]:
        customer_id = path_id(customer_id)
        query = Query(request, frozenset({"meter", "from", "to", "step"}))
        meter = query.text("meter")
        step = query.one_of("step", tuple(STEPS), "hour") or "hour"
        snapshot = await services.gate.snapshot(customer_id)
        if meter is None or meter not in snapshot.policy.meters:
            raise invalid("meter", f"one of {', '.join(snapshot.policy.meters)}")
        to_us = query.instant_us("to") or services.now_us()
        from_us = query.instant_us("from") or to_us - 86_400_000_000
        if not 0 < (to_us - from_us) // 1_000_000 <= MAX_POINTS * STEPS[step]:
            raise invalid("from", f"before `to`, by at most {MAX_POINTS} steps of one {step}")
        points = await asyncio.to_thread(
            store.usage.series, customer_id, meter, from_us // 1_000_000, to_us // 1_000_000 + 1, STEPS[step]
        )
        return {
            "customer_id": customer_id,
            "meter": meter,
            "unit": snapshot.policy.meters[meter],
            "step": step,
            "from": rfc3339(from_us),
            "to": rfc3339(to_us),
            "points": [
                {
                    "at": rfc3339(point.start_seconds * 1_000_000),
                    "used": point.used,
                    "external": point.external,
                    "denied_decisions": point.denied,
                }
                for point in points
            ],
        }

    return [usage]
