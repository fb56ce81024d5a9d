"""Serve an ASGI app with uvicorn until a signal, and let the caller close what the app used afterwards."""

from __future__ import annotations

import gc
import signal
from types import FrameType
from typing import Any, Final, Literal

import uvicorn

from spendgate_daemon.one_write import OneWriteProtocol

STOP_SECONDS: Final = 3
"""How long requests under way may take after a signal."""

GARBAGE_OBJECTS: Final = 50_000
"""New objects after which Python looks for circles of them. By default that is 700: a batch of the store relay has a hundred
times as many, none in a circle, and looking through them took a quarter of its time."""


async def serve(app: Any, host: str, port: int, *, lifespan: Literal["on", "off"]) -> None:
    """Serve until SIGINT or SIGTERM. Exits the process when the address is taken."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=OneWriteProtocol,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        timeout_keep_alive=75,
    )
    collect_rarely()
    # uvicorn raises the signals that it caught once more when it's done. They have done their work: what follows is
    # the caller's tidy end, and a second signal must not cut that short.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _ignore)
    await uvicorn.Server(config).serve()


def collect_rarely() -> None:
    """Leave what is loaded by now, which stays for good, out of the search for garbage, and search less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    return
