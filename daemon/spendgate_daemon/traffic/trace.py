"""A public trace: CSV with `TIMESTAMP,ContextTokens,GeneratedTokens`, one request a row.

https://github.com/Azure/AzurePublicDataset (AzureLLMInferenceTrace). A file is checked whole before the first event is
sent, so that a fault on its last line is not found an hour into the run.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from spendgate_daemon.demo.profile import Profile, Run, draw_model
from spendgate_daemon.traffic.events import TrafficEvent, traffic_event

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MAX_ROWS: Final = 5_000_000
MAX_TOKENS: Final = 10**12
SKEW: Final = 1.1

_WHOLE = re.compile(r"[0-9]{1,13}")


class TraceError(Exception):
    """A row that can't be replayed. `line` counts from 1, the header included."""

    def __init__(self, path: Path, line: int, field: str, expected: str) -> None:
        super().__init__(f"{path}: line {line}: {field}: expected {expected}" if field else f"{path}: {expected}")
        self.path = path
        self.line = line
        self.field = field


class TraceRow(msgspec.Struct, frozen=True):
    """`at_seconds` from the first row on."""

    at_seconds: float
    context_tokens: int
    generated_tokens: int


def read_trace(path: Path) -> list[TraceRow]:
    """All rows of a trace file. Raises TraceError with line and field."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_rows(path, csv.reader(file, strict=True)))
    except OSError as exc:
        raise TraceError(path, 1, "", f"a file that can be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise TraceError(path, 1, "", "a text file in UTF-8") from exc


def trace_events(
    run_id: str, rows: Sequence[TraceRow], profiles: Sequence[Profile], first_row: int
) -> Iterator[TrafficEvent]:
    """The rows from `first_row` on as events. Customer and model are drawn by the row's number alone: the first
    profiles get most rows (Zipf), and the same row goes to the same customer in each run."""
    shares = [1 / rank**SKEW for rank in range(1, len(profiles) + 1)]
    started_at_seconds = rows[first_row].at_seconds if first_row < len(rows) else 0.0
    for row in range(first_row, len(rows)):
        draws = random.Random(f"trace/{row}")  # noqa: S311  (load, not a secret)
        profile = draws.choices(profiles, shares)[0]
        recorded = rows[row]
        run = Run(draw_model(profile, draws), recorded.context_tokens, recorded.generated_tokens, 0)
        yield traffic_event(run_id, row, recorded.at_seconds - started_at_seconds, profile.customer_id, run)


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[TraceRow]:
    line = 0
    positions: list[int] = []
    first: datetime | None = None
    last_seconds = 0.0
    try:
        for line, cells in enumerate(reader, 1):
            if line == 1:
                positions = _positions(path, cells)
                continue
            if not cells:
                continue
            if line > MAX_ROWS:
                raise TraceError(path, line, "", f"at most {MAX_ROWS} rows")
            stamp, context, generated = (
                _cell(path, line, cells, at, name) for at, name in zip(positions, COLUMNS, strict=True)
            )
            moment = _instant(path, line, stamp)
            first = first or moment
            at_seconds = (moment - first).total_seconds()
            if at_seconds < last_seconds:
                raise TraceError(path, line, "TIMESTAMP", "an instant that is not before the row above")
            last_seconds = at_seconds
            yield TraceRow(
                at_seconds,
                _tokens(path, line, "ContextTokens", context),
                _tokens(path, line, "GeneratedTokens", generated),
            )
    except csv.Error as exc:
        raise TraceError(path, line + 1, "row", f"comma-separated values: {exc}") from exc
    if first is None:
        raise TraceError(path, line + 1, "row", f"a header {','.join(COLUMNS)} and at least one row")


def _positions(path: Path, header: list[str]) -> list[int]:
    names = [name.strip() for name in header]
    for name in COLUMNS:
        if names.count(name) != 1:
            raise TraceError(path, 1, name, f"this column once in the header; it has {', '.join(names)[:200]}")
    return [names.index(name) for name in COLUMNS]


def _cell(path: Path, line: int, cells: list[str], at: int, name: str) -> str:
    if at >= len(cells):
        raise TraceError(path, line, name, f"a value; the row has only {len(cells)} columns")
    return cells[at].strip()


def _instant(path: Path, line: int, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise TraceError(
            path, line, "TIMESTAMP", f"a time such as 2023-11-16 18:15:46.680590, not {text[:60]!r}"
        ) from exc
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _tokens(path: Path, line: int, name: str, text: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) > MAX_TOKENS:
        raise TraceError(path, line, name, f"a whole number of tokens from 0 to {MAX_TOKENS}, not {text[:60]!r}")
    return int(text)
