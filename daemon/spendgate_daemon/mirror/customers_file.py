"""`customers.yaml`, for a UsageBox without policies: `customers: {id: {name, plan, status, caps, credits_granted_total,
timezone, billing_anchor_day, grants}}`. The weakest source."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import structlog

from spendgate_daemon.documents import DocumentError, Fault
from spendgate_daemon.documents.reading import line_of, path_text, read_yaml
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.terms import CustomerTerms, InvalidTerms, read_terms

MAX_FAULTS = 50

_log = structlog.get_logger("spendgate.mirror.customers_file")


class CustomersFile:
    """Watches the file by its modification time."""

    def __init__(self, path: Path, applier: Applier) -> None:
        self._path = path
        self._applier = applier
        self._seen: tuple[int, int] | None = None

    async def read_once(self) -> int:
        """Apply the file when it changed; how many customers changed. A bad file is logged and changes nothing."""
        try:
            terms = await asyncio.to_thread(self._changed)
        except (OSError, UnicodeDecodeError, DocumentError) as exc:
            _log.error("customers file refused", path=str(self._path), error=str(exc))
            return 0
        return await self._applier.apply("customers.yaml", terms)

    def _changed(self) -> list[CustomerTerms]:
        stat = self._path.stat()
        if self._seen == (stat.st_mtime_ns, stat.st_size):
            return []
        self._seen = (stat.st_mtime_ns, stat.st_size)
        return read_customers(self._path.read_text(encoding="utf-8"), str(self._path))


def read_customers(text: str, name: str = "customers.yaml") -> list[CustomerTerms]:
    """The customers of a file; none, where it holds nothing but comments. Raises DocumentError with a fault for every bad
    customer."""
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return []
    value, lines = read_yaml(text, name)
    if not isinstance(value, dict) or set(value) - {"customers"} or not isinstance(value.get("customers") or {}, dict):
        raise DocumentError(name, [Fault(1, "", "expected `customers:` and below it a mapping by customer id")])
    terms: list[CustomerTerms] = []
    faults: list[Fault] = []
    entries: dict[str, Any] = value.get("customers") or {}
    for customer_id, entry in entries.items():
        at = ("customers", customer_id)
        try:
            terms.append(read_terms(customer_id, entry))
        except InvalidTerms as exc:
            path = (*at, *exc.path)
            faults.append(Fault(line_of(lines, path), path_text(path), f"expected {exc.expected}"))
    if faults:
        raise DocumentError(name, faults[:MAX_FAULTS])
    return terms
