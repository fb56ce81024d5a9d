"""Customers: the list by time to exhaustion, and one with everything known of it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import sqlalchemy as sa
from litestar import Request, get
from litestar.params import FromPath

from spendgate.decision import limit_answer
from spendgate.limits.check import Grant
from spendgate.limits.result import LimitResult
from spendgate.reasons import MICRO, rfc3339
from spendgate_daemon.api.problems import invalid, not_found
from spendgate_daemon.api.provenance import provenance_of
from spendgate_daemon.api.reading import path_id
from spendgate_daemon.api.routes.overrides import override_answer
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.sentence import sentence_of
from spendgate_daemon.api.services import Services
from spendgate_daemon.relays.burn import exhausts_at_us
from spendgate_daemon.store.customers import Burn, Listed
from spendgate_flags.derive import flags_of

STATES: Final = ("ok", "throttled", "stopped", "suspended")


def handlers(services: Services) -> list[Any]:
    store = services.store

    @get("/v1/customers", opt={"scope": "read"})
    async def listed(request: Request[Any, Any, Any]) -> dict[str, Any]:
        query = Query(request, frozenset({"cursor", "limit", "state", "plan", "q", "sort"}))
        by_name = query.one_of("sort", ("exhaustion", "name"), "exhaustion") == "name"
        try:
            page = await asyncio.to_thread(
                lambda: store.customers.page(
                    limit=query.limit(),
                    cursor=query.text("cursor"),
                    state=query.one_of("state", STATES),
                    plan=query.text("plan"),
                    search=query.text("q"),
                    sort="name" if by_name else "exhaustion",
                )
            )
        except (ValueError, OverflowError, sa.exc.DataError) as exc:
            raise invalid("cursor", "a next_cursor of this list") from exc
        return {"items": [row_answer(item) for item in page.items], "next_cursor": page.next_cursor}

    @get("/v1/customers/{customer_id:str}", opt={"scope": "read"})
    async def one(customer_id: FromPath[str]) -> dict[str, Any]:
        customer_id = path_id(customer_id)
        found = await asyncio.to_thread(store.customers.get, customer_id)
        if found is None:
            raise not_found(f"there is no customer {customer_id!r}")
        snapshot = await services.gate.snapshot(customer_id)
        now_us = snapshot.now_us
        overrides = await asyncio.to_thread(lambda: store.overrides.of_customer(customer_id, active_at_us=now_us))
        units = snapshot.standing.units_let_through
        totals = await asyncio.to_thread(store.usage.totals, customer_id)
        standing = snapshot.standing
        until_us = standing.next_change_at_us if standing.state != "ok" else 0
        return row_answer(found, standing.state) | {
            "policy": {
                "digest": found.customer.policy_digest,
                "document": snapshot.policy.document,
                "version": found.customer.version,
                "source": found.customer.source,
                "updated_at": rfc3339(found.customer.updated_at_us),
                "contractual_caps": found.customer.caps,
                "timezone": found.customer.timezone,
                "billing_anchor_day": found.customer.billing_anchor_day,
                "grants": [_grant(grant) for grant in found.customer.grants],
            },
            "limits": [_limit(line, found.burn, now_us) for line in snapshot.limits()],
            "overrides": [override_answer(each, now_us, units(each.id)) for each in overrides],
            "flags": {
                key: {"value": flag.value, "variant": flag.variant, "reason": flag.reason}
                for key, flag in flags_of(snapshot).items()
            },
            "state_since": rfc3339(found.state_since_us) if found.state_since_us else None,
            "until": rfc3339(until_us) if until_us else None,
            "sentence": sentence_of(snapshot),
            "provenance": provenance_of(found, snapshot, totals),
            "as_of": rfc3339(now_us),
        }

    return [listed, one]


def row_answer(item: Listed, state: str | None = None) -> dict[str, Any]:
    """A line of the list; `state` overrides the one last observed."""
    tightest = item.tightest
    percent = None
    if tightest is not None:
        percent = tightest.used * 100 // tightest.limit if tightest.limit else 100
    return {
        "customer_id": item.customer.customer_id,
        "name": item.customer.name,
        "plan": item.customer.plan,
        "status": item.customer.status,
        "state": state or item.state,
        "tightest_limit": {
            "id": tightest.id,
            "unit": tightest.unit,
            "used": tightest.used,
            "limit": tightest.limit,
            "used_percent": percent,
        }
        if tightest is not None
        else None,
        "burn_per_hour": {"meter": item.burn.meter, "unit": item.burn.unit, "quantity": item.burn.quantity}
        if item.burn is not None
        else None,
        "exhausts_at": rfc3339(item.exhausts_at_us) if item.exhausts_at_us is not None else None,
        "updated_at": rfc3339(item.observed_at_us or item.customer.updated_at_us),
    }


def _grant(grant: Grant) -> dict[str, Any]:
    return {
        "id": grant.id,
        "credits": grant.micro_credits // MICRO,
        "expires_at": rfc3339(grant.expires_at_us) if grant.expires_at_us else None,
        "priority": grant.priority,
    }


def _limit(line: LimitResult, burn: Burn | None, now_us: int) -> dict[str, Any]:
    """As in a trace, with the forecast where the customer's burn is of this limit's meters."""
    per_hour = burn.quantity if burn is not None and burn.meter == " + ".join(line.meters) else None
    if line.kind != "quota":
        per_hour = None
    end_us = exhausts_at_us(line, per_hour, now_us)
    return limit_answer(line) | {
        "burn_per_hour": per_hour,
        "exhausts_at": rfc3339(end_us) if end_us is not None else None,
    }
