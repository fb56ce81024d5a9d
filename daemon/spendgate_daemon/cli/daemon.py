"""`spendgate daemon`."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from spendgate.errors import SpendgateError
from spendgate_daemon.cli.starting import HomeOption, read_settings, run_process
from spendgate_daemon.daemon import run_daemon
from spendgate_daemon.documents import DocumentError
from spendgate_daemon.redis_checks import UnsafeRedis


def command(*, home: HomeOption = None) -> None:
    """Run the daemon until a signal: relays, mirror and schedules. Health and metrics at SPENDGATE_DAEMON_PORT."""
    settings = read_settings(home)
    run_process(lambda: run_daemon(settings), (SpendgateError, UnsafeRedis, SQLAlchemyError, DocumentError))
