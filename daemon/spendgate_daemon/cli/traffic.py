"""`spendgate traffic`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from spendgate_daemon.cli.starting import WRONG_SETTINGS, HomeOption, fail, read_settings
from spendgate_daemon.settings import value_of
from spendgate_daemon.traffic.command import run_traffic_command
from spendgate_daemon.traffic.options import TrafficOptions


def command(
    *,
    trace: Path | None = None,
    customers: int = 24,
    customer: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    customer_prefix: str | None = None,
    model: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    speed: float = 1.0,
    concurrency: int = 32,
    max_events: int | None = None,
    first_row: int = 0,
    run_id: str | None = None,
    json: Path | None = None,
    home: HomeOption = None,
) -> int:
    """Send load as an application would: a public trace, or the live profile of the demo's customers.

    Exit code 0: every event was decided; 1: some were not; 2: nothing could be sent.

    Parameters
    ----------
    trace
        CSV with TIMESTAMP,ContextTokens,GeneratedTokens, as the Azure LLM inference traces. Default: live, without end.
    customers
        Over how many customers it's spread.
    customer
        A customer's id; may be given several times, instead of --customers.
    customer_prefix
        Customers named by this and a number, instead of those the API lists.
    model
        A model to use; may be given several times. Default: what each customer uses.
    speed
        Times as fast as recorded; 0 is as fast as possible.
    concurrency
        Requests under way at most.
    max_events
        End after this many.
    first_row
        Start at this row of the trace, counted from 0.
    run_id
        Repeat an earlier run: what was allowed then isn't debited twice.
    json
        Also write the summary to this file.
    """
    settings = read_settings(home)
    key = value_of(settings.decide_key)
    if key is None:
        fail("no key: set SPENDGATE_DECIDE_KEY, or say --home of a `spendgate up`", WRONG_SETTINGS)
    options = TrafficOptions(
        api_url=settings.api,
        decide_key=key,
        read_key=value_of(settings.read_key),
        trace=trace,
        customers=customer,
        customer_prefix=customer_prefix,
        customer_count=customers,
        models=model,
        speed=speed,
        concurrency=concurrency,
        max_events=max_events,
        first_row=first_row,
        run_id=run_id,
    )
    return asyncio.run(run_traffic_command(options, Console(), json))
