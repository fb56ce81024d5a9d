"""All data of the embedded Redis is gone: the next start makes it again, nobody has a quota twice, and the books agree."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from acceptance_product import SPENDGATE, Product, eventually


def command(product, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPENDGATE_")}
    return subprocess.run(
        [SPENDGATE, *arguments, "--home", product.home],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def used(product):
    limits = product.get("/v1/customers/lost")["limits"]
    return next(line["used"] for line in limits if line["id"] == "output-month")


@pytest.mark.timeout(300)
def test_a_start_after_a_loss_goes_on_where_it_was(tmp_path):
    product = Product(tmp_path / "home")
    try:
        product.contract("lost", plan="starter", caps={"tokens.output": 10_000})
        first = product.decide("lost", 9_000, event_id="before")
        held = product.reserve("lost", 500)
        product.wait_until_relayed()
    finally:
        assert product.stop() == 0
    shutil.rmtree(product.home / "redis")

    product = Product(tmp_path / "home")
    try:
        assert "made again from the store" in product.log.read_text()
        assert product.decide("lost", 9_000, event_id="before")["decision_id"] == first["decision_id"]
        assert product.decide("lost", 600)["decision"] == "stop", "9,000 are used and 500 reserved"
        answer = product.post(f"/v1/reservations/{held['reservation_id']}/commit", {"quantity": 400}, "DECIDE")
        assert answer.status_code == 200, answer.text
        assert used(product) == 9_400
        eventually(lambda: used(product) == 9_400 and product.relayed(), 60, "everything is delivered")

        reconciled = command(product, "reconcile", "--customer", "lost", "--dry-run")
        assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr
        assert "0 differ." in reconciled.stdout
        assert "nothing to rebuild" in command(product, "rebuild").stdout
        assert "no customer 'nobody'" in command(product, "reconcile", "--customer", "nobody").stderr
    finally:
        product.stop()
