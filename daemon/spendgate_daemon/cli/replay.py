"""`spendgate replay DECISION_ID`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from spendgate.limits.result import LimitResult
from spendgate.local_time import local_text
from spendgate.reasons import MICRO, quantity_text, rfc3339
from spendgate_daemon.cli.starting import HomeOption, fail
from spendgate_daemon.cli.store import opened_store
from spendgate_daemon.replay import NoReplay, Replay, replay

DISAGREES: Final = 1
NOT_REPLAYED: Final = 2

_RESULTS: Final = {"pass": "✓ fits", "deny": "■ does not fit", "not_applicable": "– not concerned"}


def command(
    decision_id: Annotated[str, Parameter(help="As in an answer, an event or an invoice line: d017-1795000000000-42.")],
    *,
    json: Annotated[bool, Parameter(negative=())] = False,
    home: HomeOption = None,
) -> int:
    """Make a stored decision again from its inputs, and say whether the definition agrees with what was decided. Exit
    code 0 it agrees, 1 it disagrees, 2 it can't be made again.

    Parameters
    ----------
    json
        Print JSON for machines.
    """
    with opened_store(home) as store:
        try:
            found = replay(store, decision_id)
        except NoReplay as exc:
            fail(str(exc), NOT_REPLAYED)
    if json:
        print(msgspec.json.format(msgspec.json.encode(found.as_json())).decode())
    else:
        _print(found)
    return 0 if found.agrees else DISAGREES


def _print(found: Replay) -> None:
    console, record = Console(soft_wrap=True, highlight=False), found.record
    for name, value in _facts(found).items():
        console.print(f"[dim]{name:<12}[/] {escape(value)}")
    for line in found.lines:
        told = " · ".join(_told(line, found.policy.timezone, ended=found.decision is None))
        console.print(f"[dim]{'limit':<12}[/] {escape(_name(line))}: {escape(told)}")
    if found.agrees:
        console.print(f"[green]✓ The definition (engine {record.engine}) decides the same.[/]")
        return
    console.print(f"[red]■ The definition (engine {record.engine}) decides otherwise. This is a fault: report it.[/]")
    for each in found.differences:
        console.print(f"  {each.field}: stored {_shown(each.stored)}, computed {_shown(each.computed)}")


def _shown(value: object) -> str:
    return escape(str(value)) if value not in ("", ()) else "nothing"


def _facts(found: Replay) -> dict[str, str]:
    record, policy, decision = found.record, found.policy, found.decision
    event, facts = record.event, record.reservation
    ended = facts.status if facts is not None and decision is None else None
    told = {
        "decision": f"{found.decision_id} ({record.mode})",
        "customer": record.customer_id,
        "at": f"{rfc3339(record.now_us)}, {local_text(record.now_us // MICRO * MICRO, policy.timezone)}",
        "outcome": f"{ended or record.result.outcome}: {found.sentence}",
    }
    if decision is not None and decision.unblock is not None:
        told["would help"] = decision.unblock.message
    if event is not None:
        told["event"] = f"{event.event_id}: {_quantities(event.quantities, policy.meters)}"
        told["metadata"] = ", ".join(f"{name}={value}" for name, value in event.metadata.items()) or "none"
    if facts is not None and decision is None:
        used = _quantities(dict(facts.actual), policy.meters)
        debited = _quantities(dict(facts.committed), policy.meters)
        told["reservation"] = f"used {used}; debited {debited}"
    told["state"] = f"{record.standing.state} before, {record.result.state_after} after"
    told["policy"] = f"{record.policy} (plan {policy.plan})"
    return told


def _quantities(quantities: dict[str, int], units: dict[str, str]) -> str:
    told = [
        f"{quantity_text(count, units.get(meter, 'unit'))} of {meter}" for meter, count in sorted(quantities.items())
    ]
    return ", ".join(told) or "nothing"


def _name(line: LimitResult) -> str:
    scope = f" {line.per}={line.per_value}" if line.per_value else ""
    return line.id + scope + (" (shadow)" if line.mode == "shadow" else "")


def _told(line: LimitResult, zone: str, *, ended: bool) -> Iterator[str]:
    """What the limit said and its numbers, those that it has. `ended`: they are as the end of a reservation left them."""
    yield _RESULTS[line.result] + (", let pass by an override" if line.bypassed else "")
    numbers = {
        "asked": line.amount or None,
        "used after" if ended else "used before": line.used if line.kind not in ("per_event", "concurrency") else None,
        "reserved": line.reserved or None,
        "outside the gate": line.external or None,
        "of": line.limit,
        "left": line.remaining,
    }
    for name, quantity in numbers.items():
        if quantity is not None:
            yield f"{name} {quantity_text(quantity, line.unit)}"
    if line.period_end_seconds:
        yield f"resets {local_text(line.period_end_seconds * MICRO, zone)}"
