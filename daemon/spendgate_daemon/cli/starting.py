"""What every command does first, and how it ends when something is in the way: one clear message, no traceback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import uvloop
from cyclopts import Parameter

from spendgate_daemon.logging import set_up_logging
from spendgate_daemon.settings import Settings, SettingsError
from spendgate_daemon.up.home import with_home

WRONG_SETTINGS: Final = 2
NOT_STARTED: Final = 1

HomeOption = Annotated[
    Path | None, Parameter(name="--home", help="Directory of `spendgate up`. Default: SPENDGATE_HOME, or .spendgate")
]


def read_settings(home: Path | None, *, log_level: str | None = None) -> Settings:
    """Settings from the environment and, where that says nothing, from a running `spendgate up`; sets up the logs, by
    `log_level` where a command tells everything itself. Exits with 2 and a message when they can't be used."""
    try:
        settings = with_home(Settings.read().at_home(home))
    except SettingsError as exc:
        fail(str(exc), WRONG_SETTINGS)
    set_up_logging(log_level or settings.log_level)
    return settings


def fail(message: str, code: int = NOT_STARTED) -> NoReturn:
    """End with a message on standard error."""
    print(message, file=sys.stderr)
    sys.exit(code)


def run_process(main: Callable[[], Coroutine[Any, Any, None]], expected: tuple[type[Exception], ...]) -> None:
    """Run a process's coroutine; `expected` errors are its message."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except SettingsError as exc:
        fail(str(exc), WRONG_SETTINGS)
    except expected as exc:
        fail(f"{type(exc).__name__}: {exc}")
