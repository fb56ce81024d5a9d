"""The verifier: every stored decision is decided again by the definition.

So the script is checked against `decide()` in production, on every input that ever came. A mismatch stays as the script
decided, is marked, counted and logged as an error.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from spendgate.errors import SpendgateError
from spendgate.record import agrees, decode_record
from spendgate_daemon.relays.metrics import MISMATCHES, VERIFIED
from spendgate_daemon.store import Store
from spendgate_daemon.store.decisions import StoredDecision

CURSOR: Final = "verifier"
BATCH: Final = 500

_log = structlog.get_logger("spendgate.verifier")


class Verifier:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def run_once(self) -> int:
        """Verify the next BATCH stored decisions; how many."""
        return await asyncio.to_thread(self._run)

    def _run(self) -> int:
        position = int(self._store.cursors.get(CURSOR) or 0)
        stored = self._store.decisions.after(position, BATCH)
        if not stored:
            return 0
        results = {decision.position: self._agrees(decision) for decision in stored}
        with self._store.database.writing() as connection:
            for verified in (True, False):
                positions = [position for position, result in results.items() if result is verified]
                self._store.decisions.mark_verified(connection, positions, verified=verified)
            self._store.cursors.put({CURSOR: str(stored[-1].position)}, connection)
        wrong = [decision for decision in stored if not results[decision.position]]
        VERIFIED.inc(len(stored) - len(wrong))
        MISMATCHES.inc(len(wrong))
        for decision in wrong:
            _log.error("the definition disagrees", decision_id=decision.decision_id, policy=decision.policy_digest)
        return len(stored)

    def _agrees(self, decision: StoredDecision) -> bool:
        policy = self._store.policies.effective(decision.policy_digest)
        if policy is None:
            return False
        try:
            return agrees(decode_record(decision.record), policy)
        except (msgspec.MsgspecError, SpendgateError, ValueError, LookupError, ArithmeticError, TypeError):
            return False  # a record that the definition can't even read is as wrong as one that it decides otherwise
