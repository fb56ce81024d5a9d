"""The daemon's part of the soak: processes are killed a hundred times, an hour of real requests is replayed, and all three
books are the same in the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from acceptance_product import SPENDGATE, TRACE, Product
from kill_site import KillSite
from spendgate import Gate

TRACE_SPEED = 60
TRACE_CUSTOMERS = 500


def kill_again_and_again(redis_url: str, seed: int, kills: int, tell: Callable[[int], None]) -> str | None:
    """API, daemon, and the daemon with a batch in UsageBox's hands: each is killed `kills` times; what was wrong."""
    with tempfile.TemporaryDirectory() as home:
        site = KillSite(Path(home), redis_url, seed, share=0.3)
        with site.running():
            with site.load():
                for _ in range(kills):
                    site.kill("api")
                    site.kill("daemon")
                    site.kill_after_sending()
                    tell(3)
            site.settle()
            enforced = asyncio.run(_used(redis_url, site.customers))
            wrong = [
                f"{customer}: sent {site.sent[customer]}, enforced {enforced[customer]}, recorded {recorded}, billed {billed}"
                for customer in site.customers
                if not site.sent[customer]
                == enforced[customer]
                == (recorded := site.recorded(customer))
                == (billed := site.billed(customer))
            ]
            return "\n".join(wrong) or None


async def _used(redis_url: str, customers: list[str]) -> dict[str, int]:
    async with Gate.from_url(redis_url, timeout_seconds=5) as gate:
        return {name: (await gate.snapshot(name)).limits()[0].used for name in customers}


def replay_an_hour() -> str | None:
    """The real trace at 60 times its speed over 500 customers; what `spendgate reconcile` says if the books differ."""
    with tempfile.TemporaryDirectory() as place:
        product = Product(Path(place) / "home")
        try:
            for number in range(TRACE_CUSTOMERS):
                terms = {"plan": "starter", "caps": {"tokens.output": 10**9, "tokens.input": 10**10}}
                product.sandbox.put(f"/sandbox/v1/customers/trace-{number}", json=terms).raise_for_status()
            product.contract(f"trace-{TRACE_CUSTOMERS - 1}", plan="starter", caps={"tokens.output": 10**10})
            customers = [option for number in range(TRACE_CUSTOMERS) for option in ("--customer", f"trace-{number}")]
            summary = product.traffic("--trace", str(TRACE), "--speed", str(TRACE_SPEED), *customers)
            product.wait_until_relayed(120)
            print(
                f"{summary['events']:,} requests: {summary['allowed']:,} allowed, {summary['throttled']:,} throttled, "
                f"{summary['stopped']:,} stopped, {summary['errors']:,} errors",
                flush=True,
            )
            done = subprocess.run(
                [SPENDGATE, "reconcile", "--dry-run", "--home", product.home],
                capture_output=True,
                text=True,
                check=False,
            )
            print(done.stdout.splitlines()[-1] if done.stdout else done.stderr, file=sys.stderr)
            differences = [
                line for line in done.stdout.splitlines() if line.startswith("  ") and "external" not in line
            ]
            return "\n".join(differences) or (done.stdout + done.stderr if done.returncode else None)
        finally:
            product.stop()
