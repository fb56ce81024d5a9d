"""`spendgate reconcile`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from sqlalchemy.exc import SQLAlchemyError

from spendgate.errors import SpendgateError
from spendgate.reasons import quantity_text
from spendgate_daemon.books.line import SENTENCES, Line
from spendgate_daemon.books.reconcile import NOT_COMPARED, Outcome
from spendgate_daemon.cli.starting import HomeOption, fail, read_settings, run_process
from spendgate_daemon.redis_checks import UnsafeRedis
from spendgate_daemon.wiring import open_parts, open_reconcile


def command(
    *,
    customer: Annotated[str | None, Parameter(help="Only this customer's id. Default: everybody")] = None,
    dry_run: Annotated[bool, Parameter(help="Change nothing")] = False,
    home: HomeOption = None,
) -> int:
    """Compare what Redis enforced, the store recorded and UsageBox bills, name each difference and put right what may be.

    Exit code 1: something differs without a cause and was not put right, or somebody could not be compared.
    """
    settings = read_settings(home, log_level="warning")
    outcomes: list[Outcome] = []
    left_out: dict[str, str] = {}

    async def main() -> None:
        async with open_parts(settings) as parts, open_reconcile(settings, parts) as reconcile:
            known = await asyncio.to_thread(parts.store.customers.all_known)
            chosen = [each.customer_id for each in known if customer in (None, each.customer_id)]
            if not chosen:
                fail(f"there is no customer {customer!r}" if customer is not None else "there are no customers yet")
            for customer_id in track(chosen, "customers", console=Console(stderr=True), transient=True):
                try:
                    outcomes.append(await reconcile.customer(customer_id, dry_run=dry_run))
                except NOT_COMPARED as exc:
                    left_out[customer_id] = str(exc)

    run_process(main, (SpendgateError, UnsafeRedis, SQLAlchemyError))
    return _tell(outcomes, left_out, dry_run=dry_run)


def _tell(outcomes: list[Outcome], left_out: dict[str, str], *, dry_run: bool) -> int:
    console = Console(soft_wrap=True, highlight=False)
    for outcome in outcomes:
        for line in outcome.lines:
            if line.differs:
                _print(console, line)
        for repair in outcome.repairs:
            console.print(f"  [yellow]{'would be put right' if dry_run else 'put right'}:[/] {escape(repair.message)}")
    lines = [line for outcome in outcomes for line in outcome.lines]
    differ = sum(line.differs for line in lines)
    wrong = [outcome.customer_id for outcome in outcomes if outcome.unexplained]
    console.print(
        f"Customers compared: {len(outcomes):,}. Lines: {len(lines):,}, of which {len(lines) - differ:,} are equal and "
        f"{differ:,} differ."
    )
    for customer_id, why in list(left_out.items())[:20]:
        console.print(f"[yellow]Not compared: {escape(customer_id)}: {escape(why)}[/]")
    if len(left_out) > 20:
        console.print(f"[yellow]Not compared: {len(left_out) - 20:,} more[/]")
    if wrong:
        console.print(f"[red]Without a cause, and not put right: {escape(', '.join(wrong[:20]))}[/]")
    return 1 if wrong or left_out else 0


def _print(console: Console, line: Line) -> None:
    period, unit = line.period, line.period.unit
    books = {
        "enforced": line.enforced.used if line.enforced is not None else None,
        "recorded": line.recorded,
        "billed": line.billed.own if line.billed is not None else None,
    }
    told = " · ".join(f"{name} {quantity_text(each, unit)}" for name, each in books.items() if each is not None)
    what = period.limit_id or ", ".join(period.meters)
    console.print(f"{escape(period.customer_id)} {escape(what)}: {told}")
    for each in line.differences():
        sign = "-" if each.quantity > 0 else "+"
        console.print(
            f"  {each.between}: {sign}{quantity_text(abs(each.quantity), unit)} {each.cause}, {SENTENCES[each.cause]}"
        )
