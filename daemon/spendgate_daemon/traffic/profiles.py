"""Whose events are sent: the customers that the API knows, the demo's, or the ones that were asked for."""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec
import stamina

from spendgate_daemon.demo.customers import DEMO_CUSTOMERS
from spendgate_daemon.demo.profile import Profile
from spendgate_daemon.traffic.options import TrafficError, TrafficOptions

ANY_PLANS_MODEL: Final = "gpt-5-mini"
"""What customers nobody described use: the default document allows it on every plan."""

TOTAL_RUNS_PER_HOUR: Final = 18_000.0
PAGE: Final = 200

_DEMO: Final = {customer.customer_id: customer.profile for customer in DEMO_CUSTOMERS}


async def choose_profiles(options: TrafficOptions) -> list[Profile]:
    """At least one profile, the busiest first. Raises TrafficError."""
    ids = list(options.customers)
    if not ids and options.customer_prefix is not None:
        ids = [f"{options.customer_prefix}{number:03d}" for number in range(1, options.customer_count + 1)]
    if not ids and options.read_key is not None:
        known = await _known_customers(options.api_url, options.read_key, options.customer_count)
        # The demo's own order says who is busy.
        ids = [customer_id for customer_id in _DEMO if customer_id in known] + [i for i in known if i not in _DEMO]
    if not ids:
        ids = list(_DEMO)[: options.customer_count]
    profiles = [
        _DEMO.get(customer_id) or _plain(customer_id, rank, len(ids)) for rank, customer_id in enumerate(ids, 1)
    ]
    if not options.models:
        return profiles
    models = dict.fromkeys(options.models, 1.0)
    return [msgspec.structs.replace(profile, models=models) for profile in profiles]


def _plain(customer_id: str, rank: int, count: int) -> Profile:
    total = sum(1 / other for other in range(1, count + 1))
    return Profile(customer_id, TOTAL_RUNS_PER_HOUR / rank / total, {ANY_PLANS_MODEL: 1.0})


async def _known_customers(api_url: str, read_key: str, count: int) -> list[str]:
    known: list[str] = []
    query: dict[str, str | int] = {"limit": PAGE, "sort": "name"}
    headers = {"authorization": f"Bearer {read_key}"}
    try:
        async with httpx.AsyncClient(base_url=api_url, headers=headers, timeout=5) as http:
            while True:
                page = await _page(http, query)
                known += [str(item["customer_id"]) for item in page["items"]]
                if page["next_cursor"] is None or len(known) >= count:
                    return known[:count]
                query["cursor"] = page["next_cursor"]
    except httpx.HTTPStatusError as exc:
        status = exc.response.status_code
        raise TrafficError(f"the list of customers at {api_url} answers {status}: {exc.response.text[:200]}") from exc
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as exc:
        raise TrafficError(f"the list of customers at {api_url} can't be read: {exc or type(exc).__name__}") from exc


async def _page(http: httpx.AsyncClient, query: dict[str, str | int]) -> dict[str, Any]:
    async for attempt in stamina.retry_context(on=httpx.TransportError, attempts=10, timeout=20, wait_max=2):
        with attempt:
            response = await http.get("/v1/customers", params=query)
            response.raise_for_status()
            page: dict[str, Any] = response.json()
            return page
    raise AssertionError("retry_context ends with a return or an error")
