"""What a run of traffic came to. Memory is bounded however long it runs: latencies are kept as counts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import msgspec
from rich.table import Table

MAX_PROBLEMS: Final = 5
LATENCY_STEP: Final = 1.02
"""Latencies are told apart by two percent."""


class TrafficSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`events` were answered with a decision, and are `allowed`, `throttled` or `stopped`; `errors` were answered with
    something else or not at all in time; `units` were allowed, per meter; `duplicates` were allowed before, by an
    attempt whose answer was lost or by an earlier run. A run that ended early goes on from `next_row` with the same
    `run_id`. Latencies are from the first attempt to the answer; None without one."""

    run_id: str
    events: int
    allowed: int
    throttled: int
    stopped: int
    errors: int
    duplicates: int
    retries: int
    units: dict[str, int]
    reasons: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    elapsed_seconds: float
    events_per_second: float
    next_row: int
    complete: bool
    problems: tuple[str, ...]

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self)).decode()

    def render(self) -> Table:
        """For a terminal."""
        table = Table(title=f"Traffic {self.run_id}", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(justify="right")
        for name in ("events", "allowed", "throttled", "stopped", "errors", "retries", "duplicates"):
            table.add_row(name, f"{getattr(self, name):,}")
        for meter, units in sorted(self.units.items()):
            table.add_row(f"{meter} allowed", f"{units:,}")
        for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1]):
            table.add_row(f"reason {reason}", f"{count:,}")
        for name, value in (("p50", self.p50_ms), ("p99", self.p99_ms), ("longest", self.max_ms)):
            table.add_row(name, "-" if value is None else f"{value:.1f} ms")
        table.add_row("took", f"{self.elapsed_seconds:.1f} s, {self.events_per_second:,.0f} events/s")
        if not self.complete:
            table.add_row("continue with", f"--run-id {self.run_id} --first-row {self.next_row}")
        for problem in self.problems:
            table.add_row("error", problem)
        return table


class Tally:
    """Counts as answers come in."""

    def __init__(self, run_id: str, first_row: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.duplicates = 0
        self.retries = 0
        self.errors = 0
        self._run_id = run_id
        self._problems: list[str] = []
        self._latencies: Counter[int] = Counter()
        self._longest_ms = 0.0
        self._open_rows: set[int] = set()
        self._following_row = first_row

    def begin(self, row: int) -> None:
        """`row` is about to be sent; as long as it is open a later run would begin there."""
        self._open_rows.add(row)
        self._following_row = row + 1

    def decided(self, row: int, outcome: str, reason: str, quantities: dict[str, int], latency_ms: float) -> None:
        self._open_rows.discard(row)
        self.outcomes[outcome] += 1
        self._longest_ms = max(self._longest_ms, latency_ms)
        self._latencies[math.floor(math.log(max(latency_ms, 0.001), LATENCY_STEP))] += 1
        if outcome == "allow":
            self.units.update(quantities)
        else:
            self.reasons[reason] += 1

    def failed(self, row: int, problem: str) -> None:
        self._open_rows.discard(row)
        self.errors += 1
        if len(self._problems) < MAX_PROBLEMS and problem not in self._problems:
            self._problems.append(problem)

    def summary(self, elapsed_seconds: float, *, complete: bool) -> TrafficSummary:
        events = sum(self.outcomes.values())
        return TrafficSummary(
            run_id=self._run_id,
            events=events,
            allowed=self.outcomes["allow"],
            throttled=self.outcomes["throttle"],
            stopped=self.outcomes["stop"],
            errors=self.errors,
            duplicates=self.duplicates,
            retries=self.retries,
            units=dict(self.units),
            reasons=dict(self.reasons),
            p50_ms=self._percentile_ms(0.5),
            p99_ms=self._percentile_ms(0.99),
            max_ms=round(self._longest_ms, 3) if events else None,
            elapsed_seconds=round(elapsed_seconds, 3),
            events_per_second=round(events / elapsed_seconds, 1) if elapsed_seconds > 0 else 0.0,
            next_row=min(self._open_rows, default=self._following_row),
            complete=complete and not self._open_rows,
            problems=tuple(self._problems),
        )

    def _percentile_ms(self, share: float) -> float | None:
        wanted = math.ceil(self._latencies.total() * share)
        seen = 0
        for step in sorted(self._latencies):
            seen += self._latencies[step]
            if seen >= wanted:
                return round(min(LATENCY_STEP ** (step + 1), self._longest_ms), 3)
        return None
