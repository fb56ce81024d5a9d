"""What the API is made of; the wiring fills it in."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from spendgate.client import Gate
from spendgate.control import Control
from spendgate_daemon.books.reconcile import Reconcile
from spendgate_daemon.mirror.webhooks import WebhookReceiver
from spendgate_daemon.store import Store


def clock_us() -> int:
    """Unix microseconds, UTC."""
    return time.time_ns() // 1000


class Services(msgspec.Struct, frozen=True):
    """`decider` decides, by its deadline and in an outage too; `gate` reads. `webhooks` None: no secret is configured, and webhooks are refused. `sandbox`: the mirrored UsageBox is the
    embedded one. `reconcile` compares the books. `environment` and `install_id` are shown to people."""

    gate: Gate
    decider: Gate
    control: Control
    store: Store
    webhooks: WebhookReceiver | None
    reconcile: Reconcile
    install_id: str
    environment: str
    sandbox: bool
    now_us: Callable[[], int] = clock_us
