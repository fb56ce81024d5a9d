"""When a batch leaves for its sink: as soon as it is full, or its oldest event has waited long enough.

A transaction or a request costs the sink much the same for one event as for a thousand; an event that waits a little for
others costs its reader a little time.
"""

from __future__ import annotations

import msgspec


class Batching(msgspec.Struct, frozen=True):
    """`age_seconds` counts from when an event happened, so that what comes late to the store does not wait again. An event
    from the future does not wait: whatever clock it is of, it can't be told how long."""

    size: int
    age_seconds: float

    def leaves(self, count: int, oldest_at_us: int, now_us: int) -> bool:
        """Whether so many events are a batch now."""
        waits = 0 <= now_us - oldest_at_us < self.age_seconds * 1_000_000
        return count >= self.size or not waits
