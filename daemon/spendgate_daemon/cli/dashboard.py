"""`spendgate dashboard`."""

from __future__ import annotations

import importlib.util
import os
import sys

from spendgate_daemon.cli.starting import HomeOption, fail, read_settings


def command(*, home: HomeOption = None) -> None:
    """Run the dashboard at SPENDGATE_DASHBOARD_PORT until a signal. It talks to the API at SPENDGATE_API_URL only."""
    settings = read_settings(home)
    if importlib.util.find_spec("streamlit") is None:
        fail("the dashboard isn't installed: pip install 'spendgate[dashboard]'")
    arguments = ["--port", str(settings.dashboard_port), "--host", settings.host, "--api-url", settings.api]
    os.execv(sys.executable, [sys.executable, "-m", "spendgate_dashboard", *arguments])  # noqa: S606  (no shell is the point)
