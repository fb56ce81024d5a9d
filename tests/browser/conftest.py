"""Debian's Chromium on the running product, signed in."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import msgspec
import pytest
import redis
from playwright.sync_api import sync_playwright

from acceptance_product import Product, eventually
from requirements import require
from spendgate.keys import counters_key
from spendgate.limits import PeriodCounter

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    running = Product(tmp_path_factory.mktemp("browser") / "home")
    try:
        fill(running)
        yield running
    finally:
        status = running.stop()
    assert status == 0, running.log.read_text()


def fill(running) -> None:
    running.contract("stopped-one", name="Stopped One", plan="starter", caps={"tokens.output": 1000, "ai_agent_run": 5})
    running.decide("stopped-one", 1000)
    running.denied = running.decide("stopped-one", 7)
    running.contract("reserving", name="Reserving", plan="starter", caps={"tokens.output": 10_000})
    running.reserved, kept = (running.reserve("reserving", quantity) for quantity in (1200, 700))
    ending = f"/v1/reservations/{running.reserved['reservation_id']}/commit"
    running.ended = running.post(ending, {"quantity": 950}, "DECIDE").json()
    assert kept["decision"] == "allow"
    running.repair = repaired(running)
    correct_usage(running)
    refused_usage(running)
    running.wait_until_relayed()


def correct_usage(running) -> None:
    running.contract("corrected", name="Corrected", plan="starter", caps={"tokens.output": 1200})
    running.original = running.decide("corrected", 1200)
    running.wait_until_relayed()
    path = f"/v1/decisions/{running.original['decision_id']}/corrections"
    running.correction = running.post(path, {"quantity": 0, "reason": "the run was counted twice"}, "ADMIN").json()


def refused_usage(product) -> None:
    """Two events that UsageBox refuses for good: their month is closed, and the hosted dialect has no corrections."""
    product.contract("late", name="Late One", plan="starter", caps={"tokens.output": 10_000})
    product.sandbox.post(f"/v1/accounts/late/periods/{datetime.now(UTC):%Y-%m}/close").raise_for_status()
    for quantity in (3, 4):
        product.decide("late", quantity)
    eventually(lambda: len(product.dead_letters("late")) == 2, 20, "both are dead")


def repaired(product) -> dict:
    """The repair of a counter that held too much, and somebody was denied because of it."""
    product.contract("repaired", name="Repaired", plan="starter", caps={"tokens.output": 10_000})
    product.reserve("repaired", 1200)
    key, field = counters_key("repaired"), "quota:output-month"
    with redis.Redis(unix_socket_path=str(product.home / "redis.sock")) as client:

        def denied():
            counter = PeriodCounter.decode(client.hget(key, field))
            client.hset(key, field, msgspec.structs.replace(counter, reserved=9_940).encode())
            return product.decide("repaired", 1)["decision"] == "stop"  # unless the daemon was quicker

        eventually(denied, 10, "a denial because of a counter that is wrong")

    def first():
        items = product.get("/v1/repairs", customer_id="repaired")["items"]
        return items and product.get(f"/v1/repairs/{items[0]['decision_id']}")

    return eventually(first, 30, "the daemon has repaired the counter")


@pytest.fixture(scope="module")
def chromium():
    """For one module only: while Playwright runs, its event loop does, and no test may start another."""
    binary = shutil.which("chromium")
    require("Chromium", found=binary is not None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=ARGUMENTS)
        yield browser
        browser.close()


class Screen:
    """One browser window, and what went wrong in it."""

    def __init__(self, page, base: str) -> None:
        self.page, self.base = page, base
        self.faults: list[str] = []
        page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        page.on(
            "response", lambda answer: self._note(f"{answer.status} {answer.url}") if answer.status >= 400 else None
        )
        page.on(
            "request",
            lambda request: (
                None if self._is_local(request.url) else self.faults.append(f"left the machine: {request.url}")
            ),
        )

    def _note(self, fault: str) -> None:
        """On a deep link Streamlit looks for its server below the page's path first, where it is not, and then at the
        root; the browser calls the first look an error."""
        probe = "/_stcore/health" in fault or "/_stcore/host-config" in fault or fault.endswith("404 (Not Found)")
        if not probe:
            self.faults.append(fault)

    def _is_local(self, url: str) -> bool:
        return url.startswith((self.base, self.base.replace("http", "ws", 1), "data:", "blob:"))

    def open(self, path: str) -> None:
        self.page.goto(self.base + path)
        self.page.wait_for_selector("h1", timeout=20_000)
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=20_000)

    def see(self, text: str, seconds: float = 10) -> None:
        """Fails unless this text is to be seen within the time; tables are read, too."""
        self.page.get_by_text(text).first.wait_for(state="attached", timeout=seconds * 1000)


@pytest.fixture(scope="module")
def signed_in(product, chromium):
    """Cookies of somebody who followed a one-time link."""
    return cookies(product, chromium, {"principal": "alex@ops"})


def cookies(product, chromium, asked):
    link = product.post("/v1/sign-in-links", asked).json()["token"]
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{product.addresses['dashboard_url']}/signin?token={link}")
    state = context.storage_state()
    context.close()
    assert state["cookies"]
    assert state["cookies"][0]["httpOnly"]
    return state


@pytest.fixture
def administrator(product, chromium):
    """The screen of somebody who may deal with dead letters."""
    state = cookies(product, chromium, {"principal": "ada@ops", "admin": True})
    context = chromium.new_context(storage_state=state, viewport={"width": 1400, "height": 1000})
    yield Screen(context.new_page(), product.addresses["dashboard_url"])
    context.close()


@pytest.fixture
def screen(request, product, chromium, signed_in):
    options = getattr(request, "param", {})
    context = chromium.new_context(storage_state=signed_in, **{"viewport": {"width": 1400, "height": 1000}} | options)
    yield Screen(context.new_page(), product.addresses["dashboard_url"])
    context.close()
