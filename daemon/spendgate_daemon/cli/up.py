"""`spendgate up`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from spendgate_daemon.cli.starting import WRONG_SETTINGS, HomeOption, fail
from spendgate_daemon.logging import set_up_logging
from spendgate_daemon.settings import Settings, SettingsError
from spendgate_daemon.up.stack import UpOptions, up


def command(
    *,
    home: HomeOption = None,
    demo: bool = True,
    traffic: bool = True,
    restart: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run everything on this machine, without configuration: Redis, store, sandbox, API, daemon, dashboard.

    Whatever has a URL in the settings is used instead of the embedded part.

    Parameters
    ----------
    demo
        Create 24 demo customers with a month of history in the sandbox, on the first start.
    traffic
        Send live traffic of the demo's customers.
    restart
        Start a part again that ended by itself, instead of stopping everything.
    """
    try:
        settings = Settings.read().at_home(home)
    except SettingsError as exc:
        fail(str(exc), WRONG_SETTINGS)
    set_up_logging(settings.log_level)
    return asyncio.run(up(settings, UpOptions(demo=demo, traffic=traffic, restart=restart), Console(highlight=False)))
