"""An administrator's say about a customer: policy state without UsageBox, the strongest source."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from litestar import Request, put
from litestar.params import FromPath

from spendgate_daemon.api.problems import Problem, invalid
from spendgate_daemon.api.reading import path_id, read_object
from spendgate_daemon.api.routes.customers import row_answer
from spendgate_daemon.api.services import Services
from spendgate_daemon.mirror.apply import Applier, terms_of
from spendgate_daemon.mirror.policy_book import PolicyBook, stored_document
from spendgate_daemon.mirror.terms import FIELDS, CustomerTerms, InvalidTerms, read_terms
from spendgate_daemon.store.customers import Customer

MAX_VERSION: Final = 10**15
"""Far below what Lua counts exactly, so that there is always a next one."""


def handlers(services: Services) -> list[Any]:
    store = services.store

    @put("/v1/customers/{customer_id:str}", opt={"scope": "admin"})
    async def put_terms(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> dict[str, Any]:
        customer_id = path_id(customer_id)
        terms = _read_terms(customer_id, read_object(await request.body(), FIELDS | {"version"}, "a customer's terms"))
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
        if found is None or not _says(found.customer, terms):  # somebody was faster, in Redis at least
            detail = "somebody else wrote it at the same time: read the customer and decide again"
            raise Problem(409, "conflict", "A newer version is in force", detail)
        return row_answer(found) | {"version": found.customer.version, "source": found.customer.source}

    return [put_terms]


def _read_terms(customer_id: str, value: dict[str, Any]) -> CustomerTerms:
    version = value.pop("version", None)
    if version is not None and (type(version) is not int or not 0 <= version <= MAX_VERSION):
        raise invalid("version", f"a whole number from 0 to {MAX_VERSION}")
    try:
        terms = read_terms(customer_id, value)
    except InvalidTerms as exc:
        raise invalid(exc.field, exc.expected) from exc
    return msgspec.structs.replace(terms, version=version)


def _says(stored: Customer, terms: CustomerTerms) -> bool:
    asked = msgspec.structs.replace(terms, version=stored.version)
    return (stored.source, stored.status) == ("admin", terms.status) and terms_of(stored, terms.status) == asked


def _utc(services: Services) -> datetime:
    return datetime.fromtimestamp(services.now_us() / 1_000_000, UTC)
