"""`customers.yaml`, for a UsageBox without policies: `customers: {id: {name, plan, status, caps, credits_granted_total,
timezone, billing_anchor_day, grants}}`. The weakest source.

Who is gone from it is cancelled: he may do nothing, is kept with his history, and is back as soon as the file names him again.
Not at once, because a file may be read while it is written: it has to be the same at the next look. A file that is bad, or that
names nobody, cancels nobody.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import structlog

from spendgate_daemon.documents import DocumentError, Fault
from spendgate_daemon.documents.reading import line_of, path_text, read_yaml
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.terms import CustomerTerms, InvalidTerms, read_terms

SOURCE: Final = "customers.yaml"
MAX_FAULTS: Final = 50

_log = structlog.get_logger("spendgate.mirror.customers_file")


class CustomersFile:
    """Watches the file by its modification time, and the policy document, which may have got a plan that the file names."""

    def __init__(self, path: Path, applier: Applier) -> None:
        self._path = path
        self._applier = applier
        self._seen: tuple[int, int, str] | None = None
        self._named: frozenset[str] = frozenset()
        """By the file as it was seen last; empty when the others are cancelled."""

    async def read_once(self) -> int:
        """Apply the file when it changed; how many customers changed. A bad file is logged and changes nothing. What fails on
        the way is done again at the next look."""
        try:
            looks = await asyncio.to_thread(self._look)
            if looks == self._seen:
                return await self._cancel_others()
            self._named = frozenset()
            try:
                terms = await asyncio.to_thread(self._read)
            except (UnicodeDecodeError, DocumentError):
                self._seen = looks  # told once: it stays bad until somebody changes it
                raise
        except (OSError, UnicodeDecodeError, DocumentError) as exc:
            _log.error("customers file refused", path=str(self._path), error=str(exc))
            return 0
        changed = await self._applier.apply(SOURCE, terms)
        self._seen, self._named = looks, frozenset(each.customer_id for each in terms)
        if not terms:
            _log.warning("customers file names nobody, and cancels nobody", path=str(self._path))
        return changed

    def _look(self) -> tuple[int, int, str]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, self._applier.book.document.digest

    def _read(self) -> list[CustomerTerms]:
        return read_customers(self._path.read_text(encoding="utf-8"), str(self._path))

    async def _cancel_others(self) -> int:
        if not self._named:
            return 0
        changed = await self._applier.cancel_others(SOURCE, self._named)
        self._named = frozenset()
        return changed


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
