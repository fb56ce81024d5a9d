"""Logs: one line an event, for people on a terminal and as JSON elsewhere; ours and the libraries' in one format.

What looks like a key, a webhook secret or a password in a URL is blotted out, whoever logged it.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final

import structlog

_SECRET: Final = re.compile(r"sg_[0-9a-f]{4,32}_[A-Za-z0-9_-]+|ubx_[A-Za-z0-9_-]+|whsec_[A-Za-z0-9+/=]+|://[^/@\s]+@")
QUIET_LOGGERS: Final = ("httpx", "httpcore", "apscheduler", "alembic", "uvicorn.access", "asyncio")


class _Hiding(structlog.stdlib.ProcessorFormatter):
    """The last step of every line, so that no processor or library gets around it."""

    def format(self, record: logging.LogRecord) -> str:
        return _SECRET.sub(
            lambda found: "://[hidden]@" if found[0].startswith("://") else "[hidden]", super().format(record)
        )


def set_up_logging(level: str) -> None:
    """Configure structlog and the standard library's loggers, once per process."""
    shared: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Hiding(foreign_pre_chain=shared, processors=[drop, *render]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
