"""The change feed: which customers' flags changed, read from every partition's stream on one thread.

It resumes from the last entry seen. When entries may have been trimmed before they were read, everything is told to have
changed: correctness does not rest on the feed being complete.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import redis

from spendgate.keys import PARTITIONS, tag_of

BLOCK_MS: Final = 500
RETRY_SECONDS: Final = 0.2
ENTRIES_KEPT: Final = 1000
"""What a partition's feed is trimmed to, about."""


class ChangeFeed(threading.Thread):
    """`changed` gets the ids of customers (None: any of them); `reachable` gets True or False when that changes."""

    def __init__(
        self,
        client: redis.Redis,
        changed: Callable[[set[str] | None], None],
        reachable: Callable[[bool], None],
    ) -> None:
        super().__init__(name="spendgate-flags-feed", daemon=True)
        self._client = client
        self._changed = changed
        self._reachable = reachable
        self._stopping = threading.Event()
        self.ready = threading.Event()

    def run(self) -> None:
        cursors: dict[str, str] | None = None
        up: bool | None = None
        while not self._stopping.is_set():
            try:
                if cursors is None:
                    cursors = self._ends()
                    self._changed(None)
                if up is not True:
                    up = True
                    self._reachable(True)
                    self.ready.set()
                if not self._read(cursors):
                    cursors = None
            except (redis.exceptions.RedisError, OSError):
                if up is not False:
                    up = False
                    self._reachable(False)
                # A Redis that comes back may have lost its tail: start from what it has then.
                cursors = None
                self._stopping.wait(RETRY_SECONDS)

    def stop(self) -> None:
        """End the thread; it may be in a blocking read for BLOCK_MS."""
        self._stopping.set()
        self.join(timeout=5)

    def _ends(self) -> dict[str, str]:
        pipe = self._client.pipeline(transaction=False)
        keys = [f"{tag_of(partition)}feed" for partition in range(PARTITIONS)]
        for key in keys:
            pipe.xrevrange(key, count=1)
        last = pipe.execute()
        return {key: entries[0][0].decode() if entries else "0-0" for key, entries in zip(keys, last, strict=True)}

    def _read(self, cursors: dict[str, str]) -> bool:
        """False when a stream gave all that it keeps: older entries may have been trimmed before they were read."""
        streams: dict[Any, Any] = dict(cursors)
        reply: Any = self._client.xread(streams, count=ENTRIES_KEPT, block=BLOCK_MS)
        changed: set[str] = set()
        complete = True
        for key, items in reply.items() if isinstance(reply, dict) else reply or ():
            entries = items[0] if items and isinstance(items[0], list) else items
            for stream_id, fields in entries:
                cursors[key.decode()] = stream_id.decode()
                changed.add(fields[b"c"].decode())
            complete = complete and len(entries) < ENTRIES_KEPT
        if changed:
            self._changed(changed)
        return complete
