"""`kill -9` of every part during a replay: they come back, and the totals at the end are what they would have been."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from acceptance_product import Product, eventually


@pytest.mark.timeout(400)
def test_killed_parts_lose_nothing_and_double_nothing(tmp_path, trace):
    product = Product(tmp_path / "home", "--restart")
    try:
        for number in range(8):
            product.contract(f"killed-{number}", plan="starter", caps={"tokens.output": 10**9})
        summaries = []
        options = [
            "--trace",
            str(trace),
            "--max-events",
            "3000",
            "--speed",
            "0",
            "--concurrency",
            "16",
            "--run-id",
            "killed",
        ]
        customers = [option for number in range(8) for option in ("--customer", f"killed-{number}")]
        replay = threading.Thread(target=lambda: summaries.append(product.traffic(*options, *customers)))
        replay.start()
        killed = 0
        for part in ("api", "daemon", "sandbox", "dashboard", "api", "daemon"):
            before = eventually(lambda part=part: product.children().get(part), 30, f"{part} runs")
            os.kill(before, signal.SIGKILL)
            killed += 1
            eventually(
                lambda part=part, before=before: product.children().get(part) not in (None, before),
                30,
                f"{part} is back",
            )
        replay.join(200)
        assert killed == 6
        assert summaries, "the replay came to its end"
        summary = summaries[0]
        assert summary["errors"] == 0
        product.wait_until_relayed(90)
        stored, billed, enforced = {}, {}, 0
        for row in product.every("/v1/decisions", outcome="allow"):
            for meter, quantity in row["quantities"].items():
                stored[meter] = stored.get(meter, 0) + quantity
        for number in range(8):
            for meter, quantity in product.billed(f"killed-{number}", product.source).items():
                billed[meter] = billed.get(meter, 0) + quantity
            limits = product.get(f"/v1/customers/killed-{number}")["limits"]
            enforced += next(line["used"] for line in limits if line["id"] == "output-month")
        assert stored == billed == summary["units"]
        assert enforced == billed["tokens.output"]
        assert product.get("/v1/sync")["verifier"]["mismatches"] == 0
    finally:
        product.stop()
