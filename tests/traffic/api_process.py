"""An API process that a test can kill: `python api_process.py REDIS_URL STORE_URL PORT`."""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from spendgate import Gate
from spendgate.control import Control
from spendgate_daemon.api.app import create_app
from spendgate_daemon.api.services import Services, clock_us
from spendgate_daemon.books.read import Reader
from spendgate_daemon.books.reconcile import Reconcile
from spendgate_daemon.store import Store


async def main(redis_url: str, store_url: str, port: int) -> None:
    gate = Gate.from_url(redis_url, timeout_seconds=5)
    control, store = Control.from_url(redis_url), Store.open(store_url, migrate=False)
    reader = Reader(gate, control, store, None, "spendgate/test", clock_us)
    services = Services(
        gate=gate,
        decider=gate,
        control=control,
        store=store,
        webhooks=None,
        reconcile=Reconcile(reader, control, store, None, clock_us),
        install_id="test",
        environment="test",
        sandbox=False,
    )
    config = uvicorn.Config(create_app(services), port=port, lifespan="off", ws="none", log_config=None)
    await uvicorn.Server(config).serve()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
