"""`make bench`: every row of the targets that the product has so far, as ratios measured in one run.

Prints each row when it is measured, then a table, and writes `bench.json`: a list of {"name", "value", "target", "holds",
"unit", "spread"}. A whole run draws `docs/bench.svg` as well. A row whose yardstick is not on this machine is left out, and
the run says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import chart
import clients
import enforcement
import growth
import http_api
import interleavings
import latency
import mirror
import path
import redis_cpu
import relay
import rivals
from measure import Missing, Row
from rich.console import Console
from rich.table import Table

MODULES = {
    "clients": clients.measure,
    "rivals": rivals.measure,
    "latency": latency.measure,
    "http_api": http_api.measure,
    "redis_cpu": redis_cpu.measure,
    "growth": growth.measure,
    "relay": relay.measure,
    "path": path.measure,
    "enforcement": enforcement.measure,
    "mirror": mirror.measure,
    "interleavings": interleavings.measure,
}
CHART = Path(__file__).parents[1] / "docs" / "bench.svg"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    parser.add_argument("--only", default="", help=f"run what contains this: {', '.join(MODULES)}")
    parser.add_argument("--million", action="store_true", help="grow to a million customers, not to 100,000")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    growth.SIZES += (growth.MILLION,) if options.million else ()
    console = Console(width=None if sys.stdout.isatty() else 120)
    chosen = {name: measure for name, measure in MODULES.items() if options.only in name}
    if not chosen:
        parser.error(f"--only {options.only!r} is in none of {', '.join(MODULES)}")
    rows: list[Row] = []
    for number, (name, measure) in enumerate(chosen.items(), start=1):
        console.print(f"[dim]{number} of {len(chosen)}, {name}[/dim]")
        try:
            for row in measure(quick=options.quick):
                console.print(f"  {row.name}: {row.told}", highlight=False)
                rows.append(row)
        except Missing as missing:
            console.print(f"[yellow]left out {name}: {missing}[/yellow]")
        # After each, so that a run that is broken off leaves what it has measured.
        options.output.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n", encoding="utf-8")
    print_table(console, rows)
    console.print(f"written to {options.output}")
    if not options.only and not options.quick:
        CHART.write_text(chart.draw(rows), encoding="utf-8")
        console.print(f"drawn in {CHART}")
    return 0


def print_table(console: Console, rows: list[Row]) -> None:
    table = Table(title="Spendgate, medians of five")
    for column in ("what", "value", "target", "holds", "spread"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        held = {True: "yes", False: "[red]no[/red]", None: "-"}[row.holds]
        table.add_row(row.name, row.told, row.target or "-", held, row.spread)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
