"""`/healthz` (this process lives), `/readyz` (it could decide now, or what is missing), `/metrics`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import sqlalchemy as sa
from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from spendgate.errors import SpendgateError
from spendgate_daemon.api.services import Services

CHECK_SECONDS: Final = 2
PROBE_CUSTOMER: Final = "spendgate-readiness-probe"


def handlers(services: Services) -> list[Any]:
    async def gate() -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await services.gate.snapshot(PROBE_CUSTOMER)
        except (SpendgateError, TimeoutError) as exc:
            return str(exc) or "no answer in time"
        return None

    async def store() -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await asyncio.to_thread(services.store.cursors.get, "readiness")
        except (sa.exc.SQLAlchemyError, TimeoutError) as exc:
            return type(exc).__name__
        return None

    @get("/healthz", opt={"public": True}, sync_to_thread=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", opt={"public": True})
    async def readyz() -> Response[dict[str, Any]]:
        redis_fault, store_fault = await asyncio.gather(gate(), store())
        checks = {"redis": redis_fault or "ok", "store": store_fault or "ok"}
        ready = redis_fault is None and store_fault is None
        body = {"status": "ready" if ready else "not ready", "checks": checks}
        return Response(body, status_code=200 if ready else 503)

    @get("/metrics", opt={"scope": "read"}, sync_to_thread=True)
    def metrics() -> Response[bytes]:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [healthz, readyz, metrics]
