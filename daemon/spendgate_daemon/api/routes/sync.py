"""How fresh everything is: the summary that a screen opens with, and the state of mirror and relays."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from litestar import get

from spendgate.reasons import rfc3339
from spendgate_daemon.api.services import Services
from spendgate_daemon.mirror.poll import CURSOR, STATUS
from spendgate_daemon.relays.verifier import CURSOR as VERIFIER_CURSOR


def handlers(services: Services) -> list[Any]:
    store = services.store

    async def mirror() -> dict[str, Any]:
        text = await asyncio.to_thread(store.cursors.get, STATUS)
        status = json.loads(text or "{}")
        last_poll_us = status.get("last_poll_us")
        age_us = services.now_us() - last_poll_us if last_poll_us else None
        return {
            "source": "usagebox",
            "host": status.get("host"),
            "dialect": status.get("dialect"),
            "sandbox": services.sandbox,
            "last_poll_at": rfc3339(last_poll_us) if last_poll_us else None,
            "age_seconds": round(age_us / 1_000_000, 1) if age_us is not None else None,
            "cursor": await asyncio.to_thread(store.cursors.get, CURSOR),
            "error": status.get("error"),
        }

    @get("/v1/summary", opt={"scope": "read"})
    async def summary() -> dict[str, Any]:
        now_us = services.now_us()
        counts = await asyncio.to_thread(store.customers.counts, now_us)
        outcomes = await asyncio.to_thread(store.decisions.outcomes_since, now_us - 60_000_000)
        waiting = await services.control.outbox_length()
        mirrored = await mirror()
        return {
            "customers": counts["customers"],
            "stopped": counts["stopped"],
            "throttled": counts["throttled"],
            "suspended": counts["suspended"],
            "exhausting_within_24h": counts["exhausting_within_24h"],
            "decisions_last_minute": outcomes,
            "sandbox": services.sandbox,
            "mirror_age_seconds": mirrored["age_seconds"],
            "outbox_entries": waiting,
            "install_id": services.install_id,
            "environment": services.environment,
            "as_of": rfc3339(now_us),
        }

    @get("/v1/sync", opt={"scope": "read"})
    async def sync() -> dict[str, Any]:
        sinks = await asyncio.to_thread(store.deliveries.sinks)
        verified = int(await asyncio.to_thread(store.cursors.get, VERIFIER_CURSOR) or 0)
        return {
            "mirror": await mirror(),
            "relays": [
                {
                    "sink": sink.sink,
                    "pending": sink.pending,
                    "attempted": sink.attempted,
                    "delivered": sink.delivered,
                    "dead": sink.dead,
                    "oldest_pending_at": rfc3339(sink.oldest_pending_at_us)
                    if sink.oldest_pending_at_us is not None
                    else None,
                    "error": sink.error,
                }
                for sink in sinks
            ],
            "outbox": {"entries": await services.control.outbox_length()},
            "verifier": {"position": verified, "mismatches": await asyncio.to_thread(store.decisions.mismatches)},
            "as_of": rfc3339(services.now_us()),
        }

    return [summary, sync]
