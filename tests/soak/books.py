"""The daemon's part of the soak: processes and Kafka are killed a hundred times, an hour of real requests is replayed, and all
three books, and the topics, are the same in the end."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from acceptance_product import SPENDGATE, TRACE, Product
from kafka_servers import has_kafka
from kill_site import KillSite
from spendgate import Gate
from topic_books import TopicBooks

TRACE_SPEED = 60
TRACE_CUSTOMERS = 500
PAUSE_SECONDS = 0.05
"""Of each sender: the machine is to be busy with starts of processes, not with load."""


def kill_again_and_again(
    redis_url: str, seed: int, kills: int, minutes: float, tell: Callable[[int], None]
) -> str | None:
    """API, daemon, the daemon at each of the named points, and Kafka, if there is one, are killed `kills` times each, or as
    often as the time is enough for; `tell` is told of each time. What was wrong; then everybody's logs and data stay."""
    deadline = time.monotonic() + minutes * 60
    home = Path(tempfile.mkdtemp(prefix="spendgate-kills-"))
    print(f"logs and data: {home}", flush=True)
    site = KillSite(home, redis_url, seed, share=0.3, kafka=has_kafka(), pause_seconds=PAUSE_SECONDS)
    with site.running():
        with site.load():
            for number in range(kills):
                if time.monotonic() > deadline:
                    break
                site.hurt(politely=number % 2 == 1)
                tell(1)
        site.settle()
        print(f"{sum(site.sent.values()):,} units; done: {_told(site.done)}; UsageBox: {_told(site.front.met)}")
        wrong = "\n".join(_differences(site, redis_url)) or None
    if wrong is None:
        shutil.rmtree(home)
    return wrong


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))


def _differences(site: KillSite, redis_url: str) -> Iterator[str]:
    """Between what was sent and the books, and between the store and the topics."""
    enforced = asyncio.run(_used(redis_url, site.customers))
    topics = TopicBooks(site.broker.address) if site.broker is not None else None
    used = topics.used() if topics is not None else {(name, "tokens"): sent for name, sent in site.sent.items()}
    for customer in site.customers:
        books = {
            "sent": site.sent[customer],
            "enforced": enforced[customer],
            "recorded": site.recorded(customer),
            "billed": site.billed(customer),
            "in the topic": used.get((customer, "tokens"), 0),
        }
        if len(set(books.values())) > 1:
            yield f"{customer}: {_told(books)}"
    if mismatches := site.store.decisions.mismatches():
        yield f"{mismatches} decisions are not what their definition says"
    yield from site.false_alarms()
    if topics is not None:
        counted = {kind: len(messages) for kind, messages in topics.topics.items()}
        print(f"topics: {_told(counted)}, of broken transactions {topics.broken():,}")
        yield from topics.faults(site.store)


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
