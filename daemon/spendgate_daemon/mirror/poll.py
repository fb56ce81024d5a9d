"""Policy state by polling: UsageBox's policies by cursor, or its catalog where it has none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

from spendgate.client import Gate
from spendgate.control import STREAM_START, Control, StateWrite
from spendgate.keys import PARTITIONS
from spendgate.state import PolicyState
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.metrics import MIRRORED_AT, POLLS
from spendgate_daemon.mirror.source import all_catalog_terms, policy_pages
from spendgate_daemon.store import Store
from spendgate_daemon.usagebox import UsageBox, UsageBoxError

CURSOR: Final = "mirror.policies"
STATUS: Final = "mirror.status"
UNKNOWN_KEPT_SECONDS: Final = 3600
HINTS_BLOCK_MS: Final = 1000
MARKED_MAX: Final = 200
"""Of one round; the next decision of one beyond it hints again."""


class Poll:
    """`poll_once` is safe to call from the schedule and from hints at the same time: one runs, the others wait."""

    def __init__(
        self,
        control: Control,
        gate: Gate,
        store: Store,
        usagebox: UsageBox,
        applier: Applier,
        now_us: Callable[[], int],
    ) -> None:
        self._control = control
        self._gate = gate
        self._store = store
        self._usagebox = usagebox
        self._applier = applier
        self._now_us = now_us
        self._lock = asyncio.Lock()
        self._hint_cursors = dict.fromkeys(range(PARTITIONS), STREAM_START)

    async def poll_once(self) -> int:
        """Fetch what changed since the last poll and apply it; how many customers changed. Raises UsageBoxError; what was
        applied until then stays, and the cursor says where to go on."""
        async with self._lock:
            started_us = self._now_us()
            try:
                changed = await self._poll()
            except UsageBoxError as exc:
                POLLS.labels("error").inc()
                await self._note(error=f"{type(exc).__name__}: {exc}"[:300])
                raise
            POLLS.labels("success").inc()
            MIRRORED_AT.set(started_us / 1_000_000)
            await self._control.mark_mirrored(started_us)
            await self._note(error=None, last_poll_us=started_us)
            return changed

    async def _poll(self) -> int:
        cursor = await asyncio.to_thread(self._store.cursors.get, CURSOR)
        changed = 0
        async with aclosing(policy_pages(self._usagebox, cursor)) as pages:
            async for page in pages:
                if page is None:
                    return await self._applier.apply("catalog", await all_catalog_terms(self._usagebox))
                changed += await self._applier.apply("usagebox", page.terms)
                if page.cursor != cursor:
                    await asyncio.to_thread(self._store.cursors.put, {CURSOR: page.cursor})
        return changed

    async def follow_hints_once(self) -> int:
        """Wait a moment for hints; when there are some, poll at once. Hinted customers that nobody knows after that are
        marked so for an hour, so that their next decision asks nobody.

        Room is made before the poll: whoever is shed until then has changed before it, and is in its answer.
        """
        entries = await self._control.read_hints(self._hint_cursors, HINTS_BLOCK_MS)
        if not entries:
            return 0
        read = {partition: stream_id for partition, stream_id, _ in entries}
        self._hint_cursors |= read
        await self._control.forget_hints(read)
        await self.poll_once()
        hinted = list(dict.fromkeys(value.decode() for _, _, value in entries))
        await self._mark_unknown(hinted[:MARKED_MAX])
        return len(entries)

    async def _mark_unknown(self, customer_ids: Sequence[str]) -> None:
        snapshots = await self._gate.snapshots(customer_ids)
        nobody = [snapshot.customer_id for snapshot in snapshots if snapshot.state is None]
        if not nobody:
            return
        policy = self._applier.book.compile_default()
        state = PolicyState(policy.digest, policy.plan, "unknown", 0, "mirror", self._now_us())
        await self._control.put_states(
            [StateWrite(customer_id, state, policy, UNKNOWN_KEPT_SECONDS) for customer_id in nobody]
        )

    async def _note(self, *, error: str | None, last_poll_us: int | None = None) -> None:
        """For `/v1/sync`: how the last poll went."""
        text = await asyncio.to_thread(self._store.cursors.get, STATUS)
        stored = json.loads(text or "{}")
        stored |= {"error": error, "host": self._usagebox.host, "dialect": self._usagebox.dialect}
        if last_poll_us is not None:
            stored["last_poll_us"] = last_poll_us
        await asyncio.to_thread(self._store.cursors.put, {STATUS: json.dumps(stored)})
