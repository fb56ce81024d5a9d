"""What a run of traffic is asked to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

MAX_CONCURRENCY: Final = 1024
MAX_CUSTOMERS: Final = 10_000
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class TrafficError(Exception):
    """The run can't start, and says why."""


class TrafficOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`trace` None is the live profile, which has no end; `customers` are ids; without them `customer_prefix` and a
    number, 001 to `customer_count`; without both the first `customer_count` of the API's list, or of the demo where that
    list is empty or can't be read (`read_key` None); `models` empty lets
    each customer use its own; `speed` is times as fast as recorded, 0 as fast as possible; `first_row` counts from 0;
    `max_events` None: all.

    Event ids are `<run_id>-<row>`: a run with the id and options of an earlier one repeats its events, and what was
    allowed then is answered again and not debited twice. None makes a fresh id. `retry_seconds` is how long one event
    is tried while nobody answers.
    """

    api_url: str
    decide_key: str
    read_key: str | None = None
    trace: Path | None = None
    customers: tuple[str, ...] = ()
    customer_prefix: str | None = None
    customer_count: int = 24
    models: tuple[str, ...] = ()
    speed: float = 1.0
    concurrency: int = 32
    run_id: str | None = None
    first_row: int = 0
    max_events: int | None = None
    retry_seconds: float = 60.0
    timeout_seconds: float = 5.0

    def __repr__(self) -> str:
        """Without the keys: options end up in logs and tracebacks."""
        shown = (name for name in self.__struct_fields__ if not name.endswith("_key"))
        return f"TrafficOptions({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def check(self) -> None:
        """Raise TrafficError for what no run can do."""
        parts = urlsplit(self.api_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TrafficError(f"the API's address must be http://host:port, not {self.api_url!r}")
        if not 0 <= self.speed <= 1_000_000:
            raise TrafficError(f"speed must be from 0 (as fast as possible) to 1,000,000, not {self.speed}")
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise TrafficError(f"concurrency must be from 1 to {MAX_CONCURRENCY}, not {self.concurrency}")
        if not 1 <= self.customer_count <= MAX_CUSTOMERS:
            raise TrafficError(f"customers must be from 1 to {MAX_CUSTOMERS}, not {self.customer_count}")
        if self.first_row < 0 or (self.max_events is not None and self.max_events < 1):
            raise TrafficError("the first row counts from 0, and at least one event is sent")
        if self.run_id is not None and not _RUN_ID.fullmatch(self.run_id):
            raise TrafficError("a run id is 1 to 64 letters, digits, dots, dashes or underscores")
        if self.trace is None and self.speed == 0:
            raise TrafficError("the live profile has no end: it needs a speed above 0, or a trace")
