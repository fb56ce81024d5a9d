"""The parts of the stack as commands, each with the settings that it needs and no secret that it doesn't."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from spendgate_daemon.settings import KEYS, PREFIX, Settings, variable_of
from spendgate_daemon.up.child import Part

SECRETS: Final = tuple(variable_of(name) for name in (*KEYS, "usagebox_key", "webhook_secret"))
STORES: Final = tuple(variable_of(name) for name in ("redis_url", "database_url"))


def sandbox_part(settings: Settings) -> Part:
    url = settings.local_url(settings.sandbox_port)
    return _part("sandbox", settings, f"{url}/health", needs=("UBX_KEY", "SPENDGATE_WEBHOOK_SECRET"))


def daemon_part(settings: Settings) -> Part:
    url = settings.local_url(settings.daemon_port)
    return _part("daemon", settings, f"{url}/readyz", needs=("UBX_KEY", *STORES))


def api_part(settings: Settings) -> Part:
    url = settings.local_url(settings.api_port)
    return _part("api", settings, f"{url}/readyz", needs=("SPENDGATE_WEBHOOK_SECRET", *STORES))


def dashboard_part(settings: Settings) -> Part:
    url = settings.local_url(settings.dashboard_port)
    return _part("dashboard", settings, f"{url}/_stcore/health")


def traffic_part(settings: Settings) -> Part:
    return _part("traffic", settings, None, needs=("SPENDGATE_DECIDE_KEY", "SPENDGATE_READ_KEY"))


def _part(name: str, settings: Settings, health_url: str | None, *, needs: tuple[str, ...] = ()) -> Part:
    withheld = {variable for variable in (*SECRETS, *STORES) if variable not in needs}
    environment = _foreign(os.environ) | {
        variable: text for variable, text in settings.as_environment().items() if variable not in withheld
    }
    return Part(name, [sys.executable, "-m", "spendgate_daemon.cli", name], environment, health_url)


def _foreign(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without our settings: a child reads those that were decided here."""
    return {name: text for name, text in environ.items() if not name.startswith(PREFIX) and name != "UBX_KEY"}
