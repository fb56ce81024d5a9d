"""The policy document in force, and policies compiled from it. A broken document never replaces a good one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

from spendgate.policy import EffectivePolicy
from spendgate_daemon.documents import DocumentError, PolicyDocument, compile_default, compile_policy, load_document
from spendgate_daemon.mirror.metrics import BROKEN_DOCUMENTS
from spendgate_daemon.store import Store

CACHED_POLICIES = 50_000

_log = structlog.get_logger("spendgate.mirror.policy_book")


class PolicyBook:
    """Compiling is cached: customers on the same terms share a policy object."""

    def __init__(self, document: PolicyDocument, now: Callable[[], datetime]) -> None:
        self.document = document
        self._now = now
        self._compiled: dict[tuple[object, ...], EffectivePolicy] = {}

    def compile(
        self, plan: str, caps: Mapping[str, int], *, timezone: str | None = None, anchor_day: int | None = None
    ) -> EffectivePolicy:
        """See `compile_policy`, which looks at no more of the time than its UTC month. Raises UnknownPlan, UnknownZone and
        UnknownBillingDay."""
        now = self._now().astimezone(UTC)
        key = (self.document.digest, plan, tuple(sorted(caps.items())), timezone, anchor_day, now.year, now.month)
        policy = self._compiled.get(key)
        if policy is None:
            if len(self._compiled) >= CACHED_POLICIES:
                self._compiled.clear()
            policy = self._compiled[key] = compile_policy(
                self.document, plan, caps, now=now, timezone=timezone, anchor_day=anchor_day
            )
        return policy

    def compile_default(self) -> EffectivePolicy:
        """For customers nobody knows."""
        return compile_default(self.document, now=self._now())

    def replace(self, document: PolicyDocument) -> bool:
        """Put another document in force; False when it says the same."""
        if document.digest == self.document.digest:
            return False
        self.document = document
        return True


class DocumentFile:
    """Watches a file of a policy document by its modification time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def changed(self) -> PolicyDocument | None:
        """The document when the file changed and is good. A bad one is logged and counted once, and passed over."""
        try:
            stat = self._path.stat()
            if self._seen == (stat.st_mtime_ns, stat.st_size):
                return None
            self._seen = (stat.st_mtime_ns, stat.st_size)
            return load_document(self._path.read_bytes(), str(self._path))
        except (OSError, DocumentError) as exc:
            BROKEN_DOCUMENTS.inc()
            _log.error("policy document refused, the one in force stays", path=str(self._path), error=str(exc))
            return None


def stored_document(store: Store) -> PolicyDocument | None:
    """The document that the daemon put in force last. None before the first one, and for one that an older version took
    and this one refuses: the daemon has to put another one in force."""
    text = store.policies.current_document()
    if text is None:
        return None
    try:
        return load_document(text, "the stored policy document")
    except DocumentError as exc:
        _log.error("stored policy document refused", error=str(exc))
        return None
