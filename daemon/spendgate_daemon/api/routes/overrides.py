"""Overrides: make one, list them, revoke one. Who does it is the key's principal, never a field."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.params import FromPath

from spendgate.errors import InvalidEvent
from spendgate.event import check_id
from spendgate.reasons import rfc3339
from spendgate_daemon.api.auth import principal_of
from spendgate_daemon.api.problems import Problem, invalid, not_found
from spendgate_daemon.api.reading import read_instant, read_object, read_text, unix_us
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.overrides import MAX_DAYS, MIN_REASON, begin_event, end_event, mirror_overrides
from spendgate_daemon.store.overrides import StoredOverride

MAX_UNITS: Final = 9 * 10**15
MAX_REASON: Final = 1000
MAX_ACTIVE: Final = 20
_FIELDS: Final = frozenset({"customer_id", "kind", "max_units", "bypass", "reason", "expires_at", "paid_by"})


def handlers(services: Services) -> list[Any]:
    store = services.store

    async def show(*shown: StoredOverride) -> list[dict[str, Any]]:
        customer_ids = list(dict.fromkeys(override.customer_id for override in shown))
        snapshots = dict(zip(customer_ids, await services.gate.snapshots(customer_ids), strict=True))
        now_us = services.now_us()
        return [
            override_answer(override, now_us, snapshots[override.customer_id].standing.units_let_through(override.id))
            for override in shown
        ]

    @post("/v1/overrides", opt={"scope": "override"})
    async def create(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
        value = read_object(await request.body(), _FIELDS, "an override")
        now_us = services.now_us()
        key = request.headers.get("idempotency-key")
        override = _read(value, principal_of(request).name, now_us, key)
        known = await asyncio.to_thread(store.customers.get, override.customer_id)
        if known is None:
            raise invalid("customer_id", "a known customer")
        snapshot = await services.gate.snapshot(override.customer_id)
        limit_ids = [limit.id for limit in snapshot.policy.limits]
        for bypassed in override.bypass:
            if bypassed != "*" and bypassed not in limit_ids:
                raise invalid("bypass", f"limits of this customer: {', '.join(limit_ids) or 'it has none'}; or *")
        active = await asyncio.to_thread(lambda: store.overrides.of_customer(override.customer_id, active_at_us=now_us))
        if len(active) >= MAX_ACTIVE and all(each.request_key != override.request_key for each in active):
            raise invalid("customer_id", f"a customer with fewer than {MAX_ACTIVE} active overrides")
        stored = await asyncio.to_thread(store.overrides.create, override, begin_event(override))
        if stored.id != override.id and _content(stored) != _content(override):
            raise Problem(
                409,
                "conflict",
                "This Idempotency-Key was used before",
                "another override was made with this key; nothing was done",
                field="Idempotency-Key",
            )
        await mirror_overrides(services.control, store, stored.customer_id, services.now_us())
        return Response((await show(stored))[0], status_code=201 if stored.id == override.id else 200)

    @get("/v1/overrides", opt={"scope": "read"})
    async def listed(request: Request[Any, Any, Any]) -> dict[str, Any]:
        query = Query(request, frozenset({"customer_id", "active", "limit"}))
        active = query.one_of("active", ("true", "false")) == "true"
        now_us = services.now_us()
        found = await asyncio.to_thread(
            lambda: store.overrides.page(
                customer_id=query.text("customer_id"), active_at_us=now_us if active else None, limit=query.limit()
            )
        )
        return {"items": await show(*found), "next_cursor": None}

    @delete("/v1/overrides/{override_id:str}", opt={"scope": "override"}, status_code=200)
    async def revoke(request: Request[Any, Any, Any], override_id: FromPath[str]) -> dict[str, Any]:
        body = await request.body()
        value = read_object(body, frozenset({"reason"}), "a reason") if body else {}
        reason = value.get("reason")
        if reason is not None:
            reason = read_text("reason", reason, 1, MAX_REASON)
        override = await asyncio.to_thread(store.overrides.get, override_id)
        if override is None:
            raise not_found(f"there is no override {override_id!r}")
        name, now_us = principal_of(request).name, services.now_us()
        event = end_event(override, now_us, f"revoked by {name}" + (f" ({reason})" if reason else ""))
        done = await asyncio.to_thread(store.overrides.revoke, override_id, name, reason, now_us, event)
        if not done and override.revoked_at_us is None:
            raise Problem(409, "conflict", "The override is over", "it expired; there is nothing to revoke")
        await mirror_overrides(services.control, store, override.customer_id, services.now_us())
        stored = await asyncio.to_thread(store.overrides.get, override_id)
        return (await show(stored if stored is not None else override))[0]

    return [create, listed, revoke]


def override_answer(override: StoredOverride, now_us: int, units_used: int) -> dict[str, Any]:
    """`units_used` is what it let through so far, as Redis counts it while the override is in force."""
    return {
        "id": override.id,
        "customer_id": override.customer_id,
        "kind": override.kind,
        "max_units": override.max_units if override.kind == "let_pass" else None,
        "units_used": units_used if override.kind == "let_pass" else None,
        "bypass": list(override.bypass) if override.kind == "let_pass" else [],
        "reason": override.reason,
        "paid_by": override.paid_by,
        "created_by": override.created_by,
        "created_at": rfc3339(override.created_at_us),
        "expires_at": rfc3339(override.expires_at_us),
        "revoked_at": rfc3339(override.revoked_at_us) if override.revoked_at_us is not None else None,
        "revoked_by": override.revoked_by,
        "active": override.active_at(now_us),
    }


def _read(value: dict[str, Any], principal: str, now_us: int, key: str | None) -> StoredOverride:
    try:
        check_id("customer_id", value.get("customer_id"))
        expires = read_instant("expires_at", value.get("expires_at"))
        if key is not None:
            check_id("Idempotency-Key", key)
    except InvalidEvent as exc:
        raise invalid(exc.field, exc.expected) from exc
    kind = value.get("kind")
    if kind not in ("let_pass", "stop"):
        raise invalid("kind", "let_pass or stop")
    reason = read_text("reason", value.get("reason"), MIN_REASON, MAX_REASON)
    expires_at_us = unix_us(expires)
    if not now_us < expires_at_us <= now_us + MAX_DAYS * 86_400_000_000:
        raise invalid("expires_at", f"in the future, by at most {MAX_DAYS} days")
    units, bypass = value.get("max_units"), value.get("bypass")
    if kind == "let_pass" and (type(units) is not int or not 1 <= units <= MAX_UNITS):
        raise invalid("max_units", f"a whole number from 1 to {MAX_UNITS}")
    if kind == "stop" and (units is not None or bypass is not None):
        raise invalid("max_units" if units is not None else "bypass", "absent: a stop has none")
    bypass = ["*"] if bypass is None else bypass
    if not isinstance(bypass, list) or not 1 <= len(bypass) <= 64 or not all(isinstance(each, str) for each in bypass):
        raise invalid("bypass", "a list of limit ids, or *")
    paid_by = value.get("paid_by", "customer")
    if paid_by not in ("customer", "goodwill"):
        raise invalid("paid_by", "customer or goodwill")
    return StoredOverride(
        id=f"ovr_{secrets.token_hex(8)}",
        request_key=f"{principal}:{key}" if key is not None else None,
        customer_id=value["customer_id"],
        kind=kind,
        max_units=units or 0,
        bypass=tuple(dict.fromkeys(bypass)),
        reason=reason,
        paid_by=paid_by,
        created_by=principal,
        created_at_us=now_us,
        expires_at_us=expires_at_us,
    )


def _content(override: StoredOverride) -> dict[str, Any]:
    names = ("customer_id", "kind", "max_units", "bypass", "reason", "paid_by", "expires_at_us")
    return {name: value for name, value in msgspec.structs.asdict(override).items() if name in names}
