"""What UsageBox says of customers, as terms: its policies page by page, or its catalog where it has none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from spendgate_daemon.mirror.terms import CustomerTerms
from spendgate_daemon.usagebox import CustomerPolicy, UsageBox


class Page(msgspec.Struct, frozen=True):
    """Customers that changed, and the cursor behind them."""

    terms: list[CustomerTerms]
    cursor: str


async def policy_pages(usagebox: UsageBox, cursor: str | None) -> AsyncGenerator[Page | None, None]:
    """Pages after the cursor (None: of everybody) until one is empty; a single None when there is no such endpoint. The
    next page is fetched while one is worked on."""
    fetch = asyncio.create_task(usagebox.policies(cursor))
    try:
        while True:
            answer = await fetch
            if answer is None:
                yield None
                return
            policies, following = answer
            more = bool(policies) and following != cursor
            if more:
                fetch = asyncio.create_task(usagebox.policies(following))
            yield Page([_terms(policy) for policy in policies], following)
            if not more:
                return
            cursor = following
    finally:
        if not fetch.done():
            fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)


def _terms(policy: CustomerPolicy) -> CustomerTerms:
    return CustomerTerms(
        customer_id=policy.customer_id,
        name=policy.name,
        plan=policy.plan,
        status=policy.status,
        caps=policy.caps,
        credits_granted_total=policy.credits_granted_total,
        version=policy.version,
    )


async def all_catalog_terms(usagebox: UsageBox) -> list[CustomerTerms]:
    """Plan and status from the subscriptions of a UsageBox without policies. Of several subscriptions of a customer the
    last active one counts; one who has none that is active is cancelled."""
    terms: dict[str, CustomerTerms] = {}
    for each in await usagebox.subscriptions() or ():
        if each.status == "active" or each.customer_id not in terms:
            terms[each.customer_id] = CustomerTerms(
                customer_id=each.customer_id,
                name=each.customer_id,
                plan=each.plan_id,
                status="active" if each.status == "active" else "cancelled",
            )
    return list(terms.values())
