"""`/healthz` (this process lives), `/readyz` (it could decide now, or what is missing), `/metrics`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import sqlalchemy as sa
from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from spendgate.errors import NotPrepared, SpendgateError
from spendgate_daemon.api.services import Services
from spendgate_daemon.mirror.poll import STATUS

CHECK_SECONDS: Final = 2
PROBE_CUSTOMER: Final = "spendgate-readiness-probe"


def handlers(services: Services) -> list[Any]:
    async def redis() -> None:
        await services.control.ping()

    async def policy() -> None:
        await services.gate.snapshot(PROBE_CUSTOMER)

    async def store() -> None:
        await asyncio.to_thread(services.store.cursors.get, STATUS)

    async def mirror() -> str:
        """Its age informs and refuses nothing: every API would leave at once, and an old policy still decides."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                text = await asyncio.to_thread(services.store.cursors.get, STATUS)
        except (sa.exc.SQLAlchemyError, TimeoutError):
            return "not known"
        status = json.loads(text or "{}")
        last_us, error = status.get("last_poll_us"), status.get("error")
        told = f"{max(0, services.now_us() - last_us) // 1_000_000} s old" if last_us else "never read"
        return f"{told}: {error}" if error else told

    @get("/healthz", opt={"public": True}, sync_to_thread=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", opt={"public": True})
    async def readyz() -> Response[dict[str, Any]]:
        needed = {"redis": redis, "policy": policy, "store": store}
        faults = await asyncio.gather(*(_fault(check) for check in needed.values()))
        checks = {name: fault or "ok" for name, fault in zip(needed, faults, strict=True)}
        ready = not any(faults)
        body = {"status": "ready" if ready else "not ready", "checks": checks | {"mirror": await mirror()}}
        return Response(body, status_code=200 if ready else 503)

    @get("/metrics", opt={"scope": "read"}, sync_to_thread=True)
    def metrics() -> Response[bytes]:
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    return [healthz, readyz, metrics]


async def _fault(check: Callable[[], Awaitable[None]]) -> str | None:
    """What is wrong, without addresses and passwords: anybody may ask."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except NotPrepared:
        return "no policy document is loaded yet: the daemon does that"
    except (SpendgateError, sa.exc.SQLAlchemyError, TimeoutError):
        return "no answer in time"
    return None
