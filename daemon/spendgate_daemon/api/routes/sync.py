"""How fresh everything is: the summary that a screen opens with, and the state of mirror and relays."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from litestar import get
from prometheus_client import REGISTRY

from spendgate.control import STREAM_START
from spendgate.keys import PARTITIONS
from spendgate.reasons import rfc3339
from spendgate.record import decode_record
from spendgate_daemon.api.services import Services
from spendgate_daemon.mirror.poll import CURSOR, STATUS
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX
from spendgate_daemon.relays.verifier import CURSOR as VERIFIER_CURSOR
from spendgate_daemon.store.deliveries import SinkState


def handlers(services: Services) -> list[Any]:
    store = services.store

    @get("/v1/summary", opt={"scope": "read"})
    async def summary() -> dict[str, Any]:
        now_us = services.now_us()
        counts = await asyncio.to_thread(store.customers.counts, now_us)
        outcomes = await asyncio.to_thread(store.decisions.outcomes_since, now_us - 60_000_000)
        waiting = await _outbox(services)
        mirrored = await _mirror(services)
        return {
            "customers": counts["customers"],
            "stopped": counts["stopped"],
            "throttled": counts["throttled"],
            "suspended": counts["suspended"],
            "exhausting_within_24h": counts["exhausting_within_24h"],
            "decisions_last_minute": outcomes,
            "sandbox": services.sandbox,
            "mirror_age_seconds": mirrored["age_seconds"],
            "outbox_entries": waiting["entries"],
            "relay_lag_seconds": waiting["oldest_age_seconds"],
            "install_id": services.install_id,
            "environment": services.environment,
            "as_of": rfc3339(now_us),
        }

    @get("/v1/sync", opt={"scope": "read"})
    async def sync() -> dict[str, Any]:
        now_us = services.now_us()
        sinks = await asyncio.to_thread(store.deliveries.sinks)
        counts = await asyncio.to_thread(store.customers.counts, now_us)
        verified = int(await asyncio.to_thread(store.cursors.get, VERIFIER_CURSOR) or 0)
        return {
            "mirror": await _mirror(services) | {"customers": counts["customers"]},
            "relays": [_sink(sink) for sink in sinks],
            "outbox": await _outbox(services),
            "webhooks": {outcome: _webhooks(outcome) for outcome in ("accepted", "shed", "ignored", "refused")},
            "verifier": {"position": verified, "mismatches": await asyncio.to_thread(store.decisions.mismatches)},
            "as_of": rfc3339(now_us),
        }

    return [summary, sync]


async def _mirror(services: Services) -> dict[str, Any]:
    text = await asyncio.to_thread(services.store.cursors.get, STATUS)
    status = json.loads(text or "{}")
    last_poll_us = status.get("last_poll_us")
    age_us = max(0, services.now_us() - last_poll_us) if last_poll_us else None
    _, totals_us = await asyncio.to_thread(services.store.customers.oldest_totals)
    return {
        "source": "usagebox",
        "host": status.get("host"),
        "dialect": status.get("dialect"),
        "sandbox": services.sandbox,
        "last_poll_at": rfc3339(last_poll_us) if last_poll_us else None,
        "age_seconds": round(age_us / 1_000_000, 1) if age_us is not None else None,
        "cursor": await asyncio.to_thread(services.store.cursors.get, CURSOR),
        "totals_read_since": rfc3339(totals_us) if totals_us else None,
        "error": status.get("error"),
    }


async def _outbox(services: Services) -> dict[str, Any]:
    """What the store relay has not taken yet; the age of the oldest is its lag, and 0 when nothing waits."""
    entries = await services.control.outbox_length()
    first = []
    if entries:
        stored = await asyncio.to_thread(services.store.cursors.starting_with, CURSOR_PREFIX)
        cursors = {p: stored.get(f"{CURSOR_PREFIX}{p:03d}", STREAM_START) for p in range(PARTITIONS)}
        first = await services.control.read_outbox(cursors, 1)
    oldest_us = min((decode_record(raw).now_us for _, _, raw in first), default=None)
    age_us = max(0, services.now_us() - oldest_us) if oldest_us is not None else 0
    return {"entries": entries, "oldest_age_seconds": round(age_us / 1_000_000, 3)}


def _sink(sink: SinkState) -> dict[str, Any]:
    oldest_us = sink.oldest_pending_at_us
    return {
        "sink": sink.sink,
        "pending": sink.pending,
        "attempted": sink.attempted,
        "delivered": sink.delivered,
        "dead": sink.dead,
        "discarded": sink.discarded,
        "oldest_pending_at": rfc3339(oldest_us) if oldest_us is not None else None,
        "error": sink.error,
    }


def _webhooks(outcome: str) -> int:
    """Since this process started."""
    return int(REGISTRY.get_sample_value("spendgate_webhooks_total", {"outcome": outcome}) or 0)
