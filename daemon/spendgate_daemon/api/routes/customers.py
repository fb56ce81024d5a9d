"""Customers: the list by time to exhaustion, one with everything known of it, its usage, and an administrator's say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from litestar import Request, get, put
from litestar.params import FromPath

from spendgate.decision import limit_answer
from spendgate.errors import InvalidEvent
from spendgate.event import check_id
from spendgate.limits.result import LimitResult
from spendgate.reasons import quantity_text, rfc3339
from spendgate.snapshot import Snapshot
from spendgate_daemon.api.problems import Problem, invalid, not_found
from spendgate_daemon.api.reading import read_object
from spendgate_daemon.api.routes.overrides import override_answer
from spendgate_daemon.api.routes.query import Query
from spendgate_daemon.api.services import Services
from spendgate_daemon.mirror.apply import MAX_CREDITS, Applier, CustomerTerms
from spendgate_daemon.mirror.policy_book import PolicyBook, stored_document
from spendgate_daemon.store.customers import Listed
from spendgate_daemon.store.usage import MAX_POINTS, Total
from spendgate_flags.derive import flags_of

MAX_CAP: Final = 9 * 10**15
MAX_CAPS: Final = 64
STEPS: Final = {"minute": 60, "hour": 3600, "day": 86_400}
STATES: Final = ("ok", "throttled", "stopped", "suspended")
STATUSES: Final = ("active", "suspended", "cancelled")
_TERMS: Final = frozenset({"name", "plan", "status", "caps", "credits_granted_total", "version"})


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
        except ValueError as exc:
            raise invalid("cursor", "a next_cursor of this list") from exc
        return {"items": [row_answer(item) for item in page.items], "next_cursor": page.next_cursor}

    @get("/v1/customers/{customer_id:str}", opt={"scope": "read"})
    async def one(customer_id: FromPath[str]) -> dict[str, Any]:
        found = await asyncio.to_thread(store.customers.get, customer_id)
        if found is None:
            raise not_found(f"there is no customer {customer_id!r}")
        snapshot = await services.gate.snapshot(customer_id)
        now_us = snapshot.now_us
        overrides = await asyncio.to_thread(lambda: store.overrides.of_customer(customer_id, active_at_us=now_us))
        units = snapshot.standing.units_let_through
        totals = await asyncio.to_thread(store.usage.totals, customer_id)
        books = await asyncio.to_thread(lambda: _books(services, snapshot, totals))
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
            },
            "limits": [limit_answer(line) for line in snapshot.limits()],
            "overrides": [override_answer(each, now_us, units(each.id)) for each in overrides],
            "flags": {
                key: {"value": flag.value, "variant": flag.variant, "reason": flag.reason}
                for key, flag in flags_of(snapshot).items()
            },
            "state_since": rfc3339(found.state_since_us) if found.state_since_us else None,
            "until": rfc3339(until_us) if until_us else None,
            "sentence": sentence_of(snapshot),
            "usagebox": books,
            "as_of": rfc3339(now_us),
        }

    @get("/v1/customers/{customer_id:str}/usage", opt={"scope": "read"})
    async def usage(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> dict[str, Any]:
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

    @put("/v1/customers/{customer_id:str}", opt={"scope": "admin"})
    async def put_terms(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> dict[str, Any]:
        terms = _read_terms(customer_id, read_object(await request.body(), _TERMS, "a customer's terms"))
        document = await asyncio.to_thread(stored_document, store)
        if document is None:
            raise Problem(503, "not-ready", "Spendgate is not ready", "no policy document is loaded yet")
        if terms.plan not in document.plans:
            raise invalid("plan", f"a plan of the policy document: {', '.join(document.plans)}")
        for meter in terms.caps:
            if meter not in document.meters:
                raise invalid(f"caps.{meter}", f"a meter of the policy document: {', '.join(document.meters)}")
        before = await asyncio.to_thread(store.customers.get, customer_id)
        if terms.version is not None and before is not None and terms.version <= before.customer.version:
            raise Problem(
                409,
                "conflict",
                "A newer version is in force",
                f"version {before.customer.version} is in force; {terms.version} is not newer",
                field="version",
            )
        applier = Applier(services.control, store, PolicyBook(document, lambda: _utc(services)), services.now_us)
        await applier.apply("admin", [terms])
        found = await asyncio.to_thread(store.customers.get, customer_id)
        if found is None:
            raise Problem(500, "internal", "Internal error", "the customer was not stored")
        return row_answer(found) | {"version": found.customer.version, "source": found.customer.source}

    return [listed, one, usage, put_terms]


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


def sentence_of(snapshot: Snapshot) -> str:
    """The customer's state in one sentence, with the reason and when it ends."""
    standing = snapshot.standing
    end = f" until {rfc3339(standing.next_change_at_us)}" if standing.next_change_at_us else ""
    if standing.state == "suspended":
        status = snapshot.state.status if snapshot.state is not None else "suspended"
        return f"Suspended: the billing system says {status}."
    lines = [line for line in snapshot.limits() if line.mode == "enforce" and line.remaining is not None]
    exhausted = [line for line in lines if line.kind in ("quota", "credits") and (line.remaining or 0) <= line.floor]
    if standing.state == "stopped":
        if any(override.kind == "stop" and override.until_us > snapshot.now_us for override in snapshot.overrides):
            return f"Stopped by an override{end}."
        return f"Stopped{end}: {_exhausted_text(exhausted)}."
    if standing.state == "throttled":
        if exhausted:
            return f"Throttled{end}: {_exhausted_text(exhausted)}."
        return f"Throttled{end}: a rate limit denied an event in the last 10 seconds."
    if exhausted:
        return f"Allowed by an override{end}, although {_exhausted_text(exhausted)}."
    return "Allowed: every limit has room."


def _exhausted_text(lines: list[LimitResult]) -> str:
    return " and ".join(
        f"{line.id} has {quantity_text(max(0, line.remaining or 0), line.unit)} left of "
        f"{quantity_text(line.limit or 0, line.unit)}"
        for line in lines
    )


def _books(services: Services, snapshot: Snapshot, totals: list[Total]) -> list[dict[str, Any]]:
    """Per meter with a quota of its own: what Redis enforces, what the store recorded, what UsageBox has."""
    read = {total.meter: total for total in totals}
    rows = []
    for line in snapshot.limits():
        if line.kind != "quota" or len(line.meters) != 1 or line.period_start_seconds is None:
            continue
        total = read.get(line.meters[0])
        same = total is not None and total.period_start_seconds == line.period_start_seconds
        start_us = line.period_start_seconds * 1_000_000
        committed = services.store.usage.total(snapshot.customer_id, line.meters[0], start_us, snapshot.now_us + 1)
        rows.append(
            {
                "limit_id": line.id,
                "meter": line.meters[0],
                "unit": line.unit,
                "period_start": rfc3339(start_us),
                "enforced": line.used + line.external,
                "recorded": committed + line.external,
                "billed": total.own + total.external if total is not None and same else None,
                "external": line.external,
                "as_of": rfc3339(total.read_at_us) if total is not None and same else None,
            }
        )
    return rows


def _read_terms(customer_id: str, value: dict[str, Any]) -> CustomerTerms:
    try:
        check_id("customer_id", customer_id)
        check_id("plan", value.get("plan"))
        if value.get("name") is not None:
            check_id("name", value["name"])
    except InvalidEvent as exc:
        raise invalid(exc.field, exc.expected) from exc
    status = value.get("status", "active")
    if status not in STATUSES:
        raise invalid("status", f"one of {', '.join(STATUSES)}")
    caps = value.get("caps", {})
    if not isinstance(caps, dict) or len(caps) > MAX_CAPS:
        raise invalid("caps", f"an object of at most {MAX_CAPS} meters")
    for meter, cap in caps.items():
        _whole(f"caps.{meter}", cap, MAX_CAP)
    granted, version = value.get("credits_granted_total"), value.get("version")
    if granted is not None:
        _whole("credits_granted_total", granted, MAX_CREDITS)
    if version is not None:
        _whole("version", version, 2**53)
    return CustomerTerms(
        customer_id=customer_id,
        name=value.get("name") or customer_id,
        plan=value["plan"],
        status=status,
        caps=caps,
        credits_granted_total=granted,
        version=version,
    )


def _whole(field: str, value: Any, maximum: int) -> None:
    if type(value) is not int or not 0 <= value <= maximum:
        raise invalid(field, f"a whole number from 0 to {maximum}")


def _utc(services: Services) -> datetime:
    return datetime.fromtimestamp(services.now_us() / 1_000_000, UTC)
