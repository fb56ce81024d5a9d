"""The daemon's process: relays in loops, everything else on APScheduler, health and metrics on a port of their own.

It stops gracefully: no run is started after the signal, runs under way get STOP_SECONDS to end, and since every job keeps
its cursor in the same transaction as its work, cutting one short costs a repetition, never a loss.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from spendgate.errors import SpendgateError
from spendgate.restorer import Restorer
from spendgate_daemon.serving import serve
from spendgate_daemon.settings import Settings
from spendgate_daemon.wiring import DaemonParts, open_daemon

STOP_SECONDS: Final = 3.0
READY_WITHIN_SECONDS: Final = 10.0
"""Ready means that the store relay succeeded this recently."""

FIRST_RUN_SPACING_SECONDS: Final = 0.05

_log = structlog.get_logger("spendgate.daemon")


async def run_daemon(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM. Raises what keeps it from starting."""
    async with open_daemon(settings) as parts, running(parts):
        _log.info("the daemon runs", jobs=len(parts.loops) + len(parts.schedule), install=parts.parts.install.id)
        await serve(health_app(parts), settings.host, settings.daemon_port, lifespan="off")
    _log.info("the daemon stopped")


@asynccontextmanager
async def running(parts: DaemonParts) -> AsyncIterator[None]:
    """All jobs run inside the block."""
    stopping = asyncio.Event()
    scheduler = AsyncIOScheduler(timezone=UTC)
    under_way: set[asyncio.Task[Any]] = set()
    for number, every in enumerate(parts.schedule):
        scheduler.add_job(
            _tracked(every.job.run_once, under_way),
            "interval",
            seconds=every.interval_seconds,
            id=every.job.name,
            next_run_time=datetime.now(UTC) + timedelta(seconds=number * FIRST_RUN_SPACING_SECONDS),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
    loops = {asyncio.create_task(job.loop(stopping), name=job.name) for job in parts.loops}
    scheduler.start()
    try:
        yield
    finally:
        stopping.set()
        scheduler.pause()
        _, late = await asyncio.wait(loops | under_way, timeout=STOP_SECONDS)
        for task in late:
            _log.warning("a job was cut short at the stop", job=task.get_name())
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        scheduler.shutdown(wait=False)


def _tracked(
    run: Callable[[], Awaitable[int | None]], under_way: set[asyncio.Task[Any]]
) -> Callable[[], Awaitable[None]]:
    """The scheduler forgets its tasks; a graceful stop has to know them."""

    async def tracked() -> None:
        task = asyncio.current_task()
        if task is not None:
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await run()

    return tracked


Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def health_app(parts: DaemonParts) -> Callable[[Scope, Any, Send], Awaitable[None]]:
    """`/healthz`: the loop turns. `/readyz`: Redis answers and decisions reach the store. `/metrics`: Prometheus."""

    async def app(scope: Scope, _receive: Any, send: Send) -> None:
        content_type, status = "text/plain; charset=utf-8", 200
        if scope["path"] == "/healthz":
            body = b"ok\n"
        elif scope["path"] == "/readyz":
            fault = await _fault(parts)
            status, body = (503, f"{fault}\n".encode()) if fault else (200, b"ready\n")
        elif scope["path"] == "/metrics":
            content_type, body = CONTENT_TYPE_LATEST, generate_latest()
        else:
            status, body = 404, b"not found\n"
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def _fault(parts: DaemonParts) -> str | None:
    """What keeps the daemon from being ready, if anything."""
    try:
        await parts.parts.control.ping()
        degraded = await Restorer(parts.parts.control).degraded()
    except SpendgateError as exc:
        return str(exc)
    if degraded:
        return f"{len(degraded)} partitions of Redis wait to be restored; after a total loss, run `spendgate rebuild`"
    last = parts.store_relay.last_success
    if last is None or time.time() - last > READY_WITHIN_SECONDS:
        return "the store relay has not succeeded lately"
    # Tried is enough: decisions go on with what is known while UsageBox is away.
    if any(not every.job.attempts for every in parts.schedule if every.job.name == "poll"):
        return "UsageBox has not been asked yet"
    return None
