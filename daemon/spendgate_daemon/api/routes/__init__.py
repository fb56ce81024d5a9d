"""Every route that is not the decision path, a module for each noun. A new noun is a file here and a line below."""

from __future__ import annotations

from typing import Any

from spendgate_daemon.api.routes import (
    books,
    corrections,
    customer_reservations,
    customer_terms,
    customer_usage,
    customers,
    dead_letters,
    decisions,
    flags,
    guardrail_events,
    health,
    overrides,
    repairs,
    sessions,
    sync,
    webhooks,
)
from spendgate_daemon.api.services import Services

MODULES = (
    health,
    customers,
    customer_usage,
    customer_reservations,
    customer_terms,
    decisions,
    corrections,
    guardrail_events,
    overrides,
    repairs,
    books,
    sessions,
    sync,
    dead_letters,
    flags,
    webhooks,
)


def route_handlers(services: Services) -> list[Any]:
    """Handlers over the services; each names the scope it needs in its `opt`."""
    return [handler for module in MODULES for handler in module.handlers(services)]
