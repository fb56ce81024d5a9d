"""When a batch leaves for its sink: as soon as it is full, or its oldest event has waited long enough.

A transaction or a request costs the sink much the same for one event as for a thousand; an event that waits a little for
others costs its reader a little time.
"""

from __future__ import annotations

import msgspec


class Batching(msgspec.Struct, frozen=True):
    """`age_seconds` counts from when an event happened, so that what comes late to the store does not wait again."""

    size: int
    age_seconds: float

    def leaves(self, count: int, oldest_at_us: int, now_us: int) -> bool:
        """Whether so many events are a batch now."""
        return count >= self.size or now_us - oldest_at_us >= self.age_seconds * 1_000_000
