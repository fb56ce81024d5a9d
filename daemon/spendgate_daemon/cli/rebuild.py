"""`spendgate rebuild`."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import SQLAlchemyError

from spendgate.errors import SpendgateError
from spendgate_daemon.cli.starting import HomeOption, read_settings, run_process
from spendgate_daemon.redis_checks import UnsafeRedis
from spendgate_daemon.restore import rebuild
from spendgate_daemon.wiring import clock_us, open_parts


def command(*, home: HomeOption = None) -> None:
    """Make everything in Redis again from the store, after Redis lost all its data.

    Counters, open reservations, remembered events, thresholds and overrides come back; use that was recorded in UsageBox
    is read again by the daemon. Partitions that lost nothing aren't touched. It may be stopped and started again.
    """
    settings = read_settings(home, log_level="warning")
    console = Console(stderr=True)

    async def main() -> None:
        async with open_parts(settings) as parts:
            columns = (TextColumn("customers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=console, transient=True) as bar:
                task = bar.add_task("customers", total=None)

                def tell(done: rebuild.Progress) -> None:
                    bar.update(task, total=done.customers, completed=done.customers_done)

                done = await rebuild.Rebuild(parts.control, parts.store, clock_us, tell).run()
        if not done.partitions:
            print("Redis has lost nothing: there is nothing to rebuild.")
        else:
            print(f"{done.customers:,} customers in {done.partitions} partitions are restored; decisions go on.")

    run_process(main, (SpendgateError, UnsafeRedis, SQLAlchemyError))
