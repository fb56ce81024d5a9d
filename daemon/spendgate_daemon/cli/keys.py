"""`spendgate keys`: for whoever can open the store, who is an administrator by that."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Column, Table

from spendgate_daemon.api.auth import SCOPES
from spendgate_daemon.cli.starting import HomeOption, fail
from spendgate_daemon.cli.store import opened_store

app = App(name="keys", help="Make, list and revoke API keys.")


@app.command
def create(
    principal: str,
    *,
    scope: Annotated[list[str], Parameter(negative=())],
    customer: str | None = None,
    days: int | None = None,
    home: HomeOption = None,
) -> None:
    """Make a key and print it. It's shown this once: the store keeps only a hash.

    Parameters
    ----------
    principal
        Who uses it, as logs, overrides and the audit name them.
    scope
        decide, usage, read, flags, override, admin or audit; may be given several times.
    customer
        Bind the key to this customer: it can't see or touch another one.
    days
        Days until it expires. Default: when it's revoked.
    """
    unknown = [name for name in scope if name not in SCOPES]
    if unknown:
        fail(f"no such scope: {', '.join(unknown)}; there are {', '.join(SCOPES)}", 2)
    if "audit" in scope and customer is None:
        fail("the scope audit is for one customer's key: say --customer", 2)
    if days is not None and days < 1:
        fail("--days must be 1 or more", 2)
    now_us = time.time_ns() // 1000
    expires_at_us = now_us + days * 86_400_000_000 if days is not None else None
    with opened_store(home) as store:
        print(store.keys.create(principal, scope, now_us, customer_id=customer, expires_at_us=expires_at_us))


@app.command(name="list")
def list_(*, home: HomeOption = None) -> None:
    """List all keys, without their secrets."""
    table = Table(Column("id", min_width=16), "principal", "scopes", "customer", "made", "state")
    now_us = time.time_ns() // 1000
    with opened_store(home) as store:
        for key in store.keys.all():
            state = "revoked" if key.revoked_at_us is not None else "valid" if key.valid_at(now_us) else "expired"
            scopes = " ".join(sorted(key.scopes))
            table.add_row(key.id, key.principal, scopes, key.customer_id or "", _day(key.created_at_us), state)
    Console().print(table)


@app.command
def revoke(key_id: str, *, home: HomeOption = None) -> None:
    """Revoke a key. Every API process refuses it within 3 seconds.

    Parameters
    ----------
    key_id
        Its id, the part between the first two underscores.
    """
    with opened_store(home) as store:
        if not store.keys.revoke(key_id, time.time_ns() // 1000):
            fail(f"no key {key_id!r} that isn't revoked already")
    print(f"revoked {key_id}")


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M")
