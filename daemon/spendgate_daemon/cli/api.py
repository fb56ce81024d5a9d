"""`spendgate api`."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from spendgate.errors import SpendgateError
from spendgate_daemon.api import create_app
from spendgate_daemon.cli.starting import HomeOption, read_settings, run_process
from spendgate_daemon.redis_checks import UnsafeRedis
from spendgate_daemon.serving import serve
from spendgate_daemon.wiring import open_services


def command(*, home: HomeOption = None) -> None:
    """Run the HTTP API at SPENDGATE_HOST and SPENDGATE_API_PORT until a signal."""
    settings = read_settings(home)

    async def main() -> None:
        async with open_services(settings) as services:
            app = create_app(services)
            await serve(app, settings.host, settings.api_port, lifespan="on")

    run_process(main, (SpendgateError, UnsafeRedis, SQLAlchemyError))
