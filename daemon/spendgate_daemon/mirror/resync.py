"""Everybody, read again: what a lost change left different is put right, and who is gone is cancelled.

It goes its own way beside the polls, so changes and webhooks are enforced meanwhile as always; at its end polls go on from
its cursor, because that of a UsageBox restored from a backup may lie before theirs. Whoever is missing from two complete answers in a row is cancelled: he may do nothing, and is kept with his history,
and is back as soon as UsageBox names him again. An answer that breaks off, that is empty, or that lacks more than
MISSING_MAX and a tenth of those known is taken for a partial one: it cancels nobody, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import structlog

from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.metrics import CANCELLED, MISSING, PARTIAL_RESYNCS
from spendgate_daemon.mirror.poll import CURSOR
from spendgate_daemon.mirror.source import all_catalog_terms, policy_pages
from spendgate_daemon.store import Store
from spendgate_daemon.usagebox import UsageBox

MISSING_MAX: Final = 10
"""So many may be gone at once in an installation of any size; in a large one a tenth."""

_log = structlog.get_logger("spendgate.mirror.resync")


class Resync:
    """After a restart the first complete answer is the first of two again."""

    def __init__(self, store: Store, usagebox: UsageBox, applier: Applier, now_us: Callable[[], int]) -> None:
        self._store = store
        self._usagebox = usagebox
        self._applier = applier
        self._now_us = now_us
        self._missed: set[str] = set()

    async def run_once(self) -> int:
        """Read and apply everybody; how many changed. Raises UsageBoxError; what was applied until then stays."""
        started_us, changed = self._now_us(), 0
        seen: set[str] = set()
        source, cursor = "usagebox", None
        async with aclosing(policy_pages(self._usagebox, None)) as pages:
            async for page in pages:
                if page is None:
                    source, terms = "catalog", await all_catalog_terms(self._usagebox)
                else:
                    terms = page.terms
                    cursor = page.cursor
                seen.update(each.customer_id for each in terms)
                changed += await self._applier.apply(source, terms)
        if cursor is not None:
            await asyncio.to_thread(self._store.cursors.put, {CURSOR: cursor})
        return changed + await self._cancel_missing(source, seen, started_us)

    async def _cancel_missing(self, source: str, seen: set[str], started_us: int) -> int:
        known = await asyncio.to_thread(self._store.customers.from_source, source, started_us)
        missing = known - seen
        MISSING.set(len(missing))
        if missing and (not seen or len(missing) > max(MISSING_MAX, len(known) // 10)):
            PARTIAL_RESYNCS.inc()
            _log.error(
                "UsageBox left out so many customers that none is cancelled", missing=len(missing), known=len(known)
            )
            self._missed = set()
            return 0
        gone, self._missed = missing & self._missed, missing
        if not gone:
            return 0
        _log.warning("customers are gone from UsageBox and are cancelled", customers=len(gone), first=sorted(gone)[:10])
        CANCELLED.inc(len(gone))
        return await self._applier.cancel(source, sorted(gone))
