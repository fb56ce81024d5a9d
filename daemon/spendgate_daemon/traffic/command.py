"""`spendgate traffic`: a run with a display, a closing summary, and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from spendgate_daemon.traffic.options import TrafficError, TrafficOptions
from spendgate_daemon.traffic.replay import TrafficRun
from spendgate_daemon.traffic.summary import TrafficSummary
from spendgate_daemon.traffic.trace import TraceError

REFRESH_SECONDS: Final = 0.25

FINE: Final = 0
WITH_ERRORS: Final = 1
NOT_STARTED: Final = 2


async def run_traffic_command(options: TrafficOptions, console: Console, json_path: Path | None = None) -> int:
    """Run, show, sum up. SIGINT and SIGTERM end the run and still give the summary. Exit code: 0 every event was
    decided, 1 some were not, 2 nothing could be sent. `json_path` gets the summary as JSON."""
    try:
        run = TrafficRun(options)
        with _stop_on_signals(run), _display(console) as progress:
            shown = progress.add_task(f"traffic {run.run_id}", total=None, counts="")
            running = asyncio.create_task(run.run())
            while not running.done():
                await asyncio.wait([running], timeout=REFRESH_SECONDS)
                _update(progress, shown, run)
            await running
    except (TrafficError, TraceError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return NOT_STARTED
    summary = run.summary()
    console.print(summary.render())
    if json_path is not None:
        try:
            await asyncio.to_thread(json_path.write_text, summary.to_json() + "\n", encoding="utf-8")
        except OSError as exc:
            console.print(f"{json_path}: {exc.strerror}", style="red", markup=False)
            return NOT_STARTED
    return WITH_ERRORS if summary.errors else FINE


@contextlib.contextmanager
def _stop_on_signals(run: TrafficRun) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _display(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        console=console,
        # A log has no use for frames.
        disable=not console.is_terminal,
    )


def _update(progress: Progress, shown: TaskID, run: TrafficRun) -> None:
    now = run.summary()
    progress.update(shown, completed=now.events + now.errors, total=run.expected_events, counts=_counts(now))


def _counts(now: TrafficSummary) -> str:
    text = f"[green]{now.allowed:,} allowed[/] [yellow]{now.throttled:,} throttled[/] [red]{now.stopped:,} stopped[/]"
    if now.errors or now.retries:
        text += f" {now.errors:,} errors, {now.retries:,} retries"
    return f"{text} {now.events_per_second:,.0f}/s" + (f", p99 {now.p99_ms:.1f} ms" if now.p99_ms is not None else "")
