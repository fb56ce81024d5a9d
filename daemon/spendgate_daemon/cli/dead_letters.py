"""`spendgate dead-letters`: over the API, so that whose key it is stands with what is done."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import httpx
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape

from spendgate_daemon.cli.asking import ask, opened_api
from spendgate_daemon.cli.starting import HomeOption
from spendgate_daemon.store.sources import SINKS

PAGE: Final = 200

app = App(name="dead-letters", help="List, retry and discard what a sink refused for good. Needs an admin key.")

SinkName = Annotated[str, Parameter(help=f"One of {', '.join(SINKS)}.")]


@app.command(name="list")
def list_(
    sink: Annotated[str | None, Parameter(help="Default: all sinks.")] = None,
    *,
    state: Literal["dead", "discarded"] = "dead",
    home: HomeOption = None,
) -> None:
    """List dead letters with their cause, the newest first.

    Parameters
    ----------
    state
        Those that wait for somebody to deal with them, or those that were given up.
    """
    console, found = Console(soft_wrap=True, highlight=False), 0
    with opened_api(home) as http:
        for each in SINKS if sink is None else (sink,):
            for letter in _letters(http, each, state):
                told = letter["error"] if state == "dead" else f"{letter['discarded_by']}: {letter['discard_reason']}"
                what = f"{letter['item_id']} of {letter['customer_id']}, {letter['at']}"
                console.print(f"[bold]{each} {letter['position']}[/]  {escape(what)}\n  {escape(told or '')}")
                found += 1
    if not found:
        print("No dead letters." if state == "dead" else "No discarded letters.")


@app.command
def retry(sink: SinkName, position: int | None = None, *, home: HomeOption = None) -> None:
    """Try a dead letter again, or all of a sink.

    Parameters
    ----------
    position
        Its position, as listed. Default: all of the sink.
    """
    where = sink if position is None else f"{sink}/{position}"
    with opened_api(home) as http:
        print(f"{ask(http, 'POST', f'/v1/dead-letters/{where}/retry')['retried']} are tried again")


@app.command
def discard(sink: SinkName, position: int, *, reason: str, home: HomeOption = None) -> None:
    """Give a dead letter up: the sink never gets it. A guardrail event tells who did it and why.

    Parameters
    ----------
    position
        Its position, as listed.
    reason
        Why, in 10 characters or more.
    """
    with opened_api(home) as http:
        letter = ask(http, "POST", f"/v1/dead-letters/{sink}/{position}/discard", json={"reason": reason})
    print(f"{sink} never gets {letter['item_id']}; discarded by {letter['discarded_by']}")


def _letters(http: httpx.Client, sink: str, state: str) -> list[dict[str, Any]]:
    letters: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"sink": sink, "state": state, "limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
        page = ask(http, "GET", "/v1/dead-letters", params=query)
        letters += page["items"]
        cursor = page["next_cursor"]
    return letters
