"""`spendgate correct DECISION_ID`: over the API, so that whose key it is stands with the correction."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from spendgate.reasons import quantity_text
from spendgate_daemon.cli.asking import ask, opened_api
from spendgate_daemon.cli.starting import HomeOption


def command(
    decision_id: Annotated[str, Parameter(help="Of the committed usage: d017-1795000000000-42.")],
    *,
    quantity: int,
    reason: str,
    meter: str | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    home: HomeOption = None,
) -> None:
    """Put right what was committed under a decision. The original stays; balances and flags follow at once, and UsageBox
    gets a correction. Needs an admin key.

    Parameters
    ----------
    quantity
        What it really was; 0 voids it.
    reason
        Why, in 10 characters or more.
    meter
        Which one, where the decision has several.
    json
        Print JSON for machines.
    """
    body = {"quantity": quantity, "reason": reason} | ({"meter": meter} if meter is not None else {})
    with opened_api(home) as http:
        made = ask(http, "POST", f"/v1/decisions/{quote(decision_id, safe='')}/corrections", json=body)
    if json:
        print(msgspec.json.format(msgspec.json.encode(made)).decode())
    else:
        _print(made)


def _print(made: dict[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(escape(f"{made['meter']} of {made['corrects']} {made['message']}"))
    for limit in made["limits"]:
        name = limit["limit_id"] + (f" of {limit['value']}" if limit["value"] else "")
        console.print(f"[dim]limit[/]     {escape(name)}: {_change(limit)}")
    if not made["limits"]:
        console.print("[dim]limit[/]     none counts it")
    console.print(f"[dim]customer[/]  {made['previous_state']} → {made['customer_state']}")
    console.print(f"[dim]record[/]    {made['decision_id']}")


def _change(limit: dict[str, Any]) -> str:
    if not limit["counted"]:
        return "its counter of that period is kept no longer, so only the books changed"
    before, after = (quantity_text(limit[name], limit["unit"]) for name in ("before", "after"))
    return f"used {before} → {after}"
