"""`spendgate sandbox`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from spendgate_daemon.cli.starting import HomeOption, fail, read_settings, run_process
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.serving import serve
from spendgate_daemon.settings import value_of
from spendgate_daemon.up.home import Home


def command(
    *,
    home: HomeOption = None,
    file: Path | None = None,
    dialect: Literal["hosted", "usagedb"] | None = None,
    webhook_url: str | None = None,
) -> None:
    """Run the sandbox at SPENDGATE_SANDBOX_PORT until a signal. It asks for UBX_KEY where that is set.

    Parameters
    ----------
    file
        Its SQLite file. Default: sandbox.sqlite3 in the home.
    dialect
        Which form of the metering API it speaks. Default: SPENDGATE_USAGEBOX_DIALECT, or hosted where that is auto.
    webhook_url
        Where it sends webhooks. Default: the API's /webhooks/usagebox.
    """
    settings = read_settings(home)
    place = Home(settings.home)
    if file is None:
        try:
            place.prepare()
        except OSError as exc:
            fail(str(exc))
    app = create_sandbox(
        file or place.sandbox,
        key=value_of(settings.usagebox_key),
        dialect=dialect or settings.stated_dialect or "hosted",
        webhook_url=webhook_url or f"{settings.api}/webhooks/usagebox",
        webhook_secret=next(iter(settings.webhook_secrets), None),
    )
    run_process(lambda: serve(app, settings.host, settings.sandbox_port, lifespan="on"), ())
