"""`make bench`: every row of the targets that the product has so far, as ratios measured in one run.

Prints a table and writes `bench.json`: a list of {"name", "value", "target", "holds", "unit", "spread"}. A row whose
yardstick is not on this machine is left out, and the run says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import clients
import enforcement
import http_api
import interleavings
import relay
from measure import Missing, Row
from rich.console import Console
from rich.table import Table

MODULES = (clients, http_api, relay, enforcement, interleavings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    parser.add_argument("--only", help="run the modules whose name contains this")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    console = Console()
    rows: list[Row] = []
    for module in MODULES:
        if options.only and options.only not in module.__name__:
            continue
        console.print(f"[dim]{module.__name__}: {(module.__doc__ or '').splitlines()[0]}[/dim]")
        try:
            rows += module.measure(quick=options.quick)
        except Missing as missing:
            console.print(f"[yellow]left out {module.__name__}: {missing}[/yellow]")
    table = Table(title="Spendgate, medians of five")
    for column in ("what", "value", "target", "holds", "spread"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        held = {True: "yes", False: "[red]no[/red]", None: "-"}[row.holds]
        table.add_row(row.name, f"{row.value:,.3g} {row.unit}", row.target or "-", held, row.spread)
    console.print(table)
    options.output.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
