"""Customers of the sandbox: what a person would click together in UsageBox, each change telling a webhook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.webhooks import WebhookSender

PAGE: Final = 1000


class CustomerChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out stays; a new customer needs `plan`."""

    name: str | None = None
    plan: str | None = None
    status: str | None = None
    caps: dict[str, int] | None = None
    credits_granted_total: int | None = None


class Customers:
    def __init__(self, book: Book, webhooks: WebhookSender) -> None:
        self._book = book
        self._webhooks = webhooks

    def get(self, customer_id: str) -> dict[str, Any] | None:
        rows = self._book.execute("SELECT * FROM customers WHERE customer_id = ?", (customer_id,))
        return self._policy_states(rows)[0] if rows else None

    def change(self, customer_id: str, change: CustomerChange, kind: str = "policy.updated") -> dict[str, Any] | None:
        """Apply a change; None when the customer is new and has no plan. Changing nothing tells nothing."""
        with self._book:
            return self._change(customer_id, change, kind)

    def change_all(self, changes: Mapping[str, CustomerChange]) -> None:
        """Many changes in one transaction."""
        with self._book:
            for customer_id, change in changes.items():
                self._change(customer_id, change, "policy.updated")

    def _change(self, customer_id: str, change: CustomerChange, kind: str) -> dict[str, Any] | None:
        current = self.get(customer_id)
        if current is None and not change.plan:
            return None
        before = current or {"name": customer_id, "status": "active", "caps": {}, "credits_granted_total": None}
        fields = {
            name: getattr(change, name) if getattr(change, name) is not None else before.get(name)
            for name in CustomerChange.__struct_fields__
        }
        if current is not None and all(current[name] == value for name, value in fields.items()):
            return current
        version = (current["version"] if current is not None else 0) + 1
        [last] = self._book.execute("SELECT COALESCE(MAX(changed), 0) + 1 AS next FROM customers")
        moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._book.execute(
            "INSERT OR REPLACE INTO customers VALUES (?,?,?,?,?,?,?,?,?)",
            (
                customer_id,
                fields["name"],
                fields["plan"],
                fields["status"],
                fields["credits_granted_total"],
                json.dumps(fields["caps"], sort_keys=True),
                version,
                last["next"],
                moment,
            ),
        )
        self._webhooks.queue(kind, {"customer_id": customer_id, "version": version})
        return self.get(customer_id)

    def remove(self, customer_id: str) -> bool:
        """Whether there was such a customer. No webhook tells of it: only a list of all does."""
        return bool(self._book.execute("DELETE FROM customers WHERE customer_id = ? RETURNING 1", (customer_id,)))

    def changed_since(self, cursor: int) -> tuple[list[dict[str, Any]], int]:
        """At most PAGE policy states in the order they changed, and the next cursor."""
        rows = self._book.execute("SELECT * FROM customers WHERE changed > ? ORDER BY changed LIMIT ?", (cursor, PAGE))
        return self._policy_states(rows), rows[-1]["changed"] if rows else cursor

    def _policy_states(self, rows: list[Any]) -> list[dict[str, Any]]:
        flags: dict[str, list[dict[str, Any]]] = {}
        marks = ",".join("?" * len(rows))
        for flag in self._book.execute(
            f"SELECT * FROM flags WHERE customer_id IN ({marks}) ORDER BY policy",  # noqa: S608  (question marks)
            [row["customer_id"] for row in rows],
        ):
            shown = {name: flag[name] for name in ("policy", "reason", "raised_at")}
            flags.setdefault(flag["customer_id"], []).append(shown)
        return [
            {
                "customer_id": row["customer_id"],
                "name": row["name"],
                "plan": row["plan"],
                "status": row["status"],
                "credits_granted_total": row["credits_granted_total"],
                "credit_balance": row["credits_granted_total"],
                "caps": json.loads(row["caps"]),
                "flags": flags.get(row["customer_id"], []),
                "version": row["version"],
                "updated_at": row["updated_at"],
            }
            for row in rows
        ]
