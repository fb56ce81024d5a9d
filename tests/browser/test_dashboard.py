"""The dashboard in a real browser: what people see, that it is true, and that it works."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from playwright.sync_api import expect

from acceptance_product import eventually

PAGES = {
    "overview": "/",
    "customer": "/customer?customer=stopped-one",
    "events": "/events",
    "trace": "/trace?id={trace}",
    "reservation": "/trace?id={reserved}",
    "end": "/trace?id={ended}",
    "repair": "/trace?id={repair}",
    "original": "/trace?id={original}",
    "correction": "/trace?id={correction}",
    "sync": "/sync",
}


def path(product, name):
    about = {"trace": product.denied, "reserved": product.reserved, "ended": product.ended, "repair": product.repair}
    about |= {"original": product.original, "correction": product.correction}
    return PAGES[name].format(**{key: answer["decision_id"] for key, answer in about.items()})


@pytest.mark.parametrize(
    "screen", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"]
)
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_whole(product, screen, name):
    screen.open(path(product, name))
    screen.see("SANDBOX")
    assert screen.page.locator("h1").count() == 1
    assert screen.page.locator("[data-testid=stException]").count() == 0
    assert screen.faults == []


@pytest.mark.parametrize("screen", [{"viewport": {"width": 390, "height": 800}}], indirect=True)
@pytest.mark.parametrize("name", PAGES)
def test_a_telephone_scrolls_one_way_only(product, name, screen):
    screen.open(path(product, name))
    screen.see("SANDBOX")
    assert screen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_without_a_session_nothing_is_shown_but_how_to_get_one(product, chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(product.addresses["dashboard_url"])
    page.get_by_text("spendgate sign-in").wait_for(timeout=20_000)
    assert "stopped-one" not in page.content()
    used = page.goto(f"{product.addresses['dashboard_url']}/signin?token=used-before")
    assert used.status == 403
    context.close()


def test_the_stop_is_on_the_customers_page_with_its_reason(product, screen):
    screen.open(path(product, "customer"))
    screen.see("output-month has 0 tokens left of 1,000 tokens")
    reconciled = product.post("/v1/books/reconcile", {"customer_id": "stopped-one"}).json()
    line = next(line for line in reconciled["lines"] if line["limit_id"] == "output-month")
    assert line["enforced"] == line["recorded"] == 1000
    screen.see("1,000 tokens (100 %)")
    screen.see("Where the numbers come from, and how old they are")
    screen.see("billing.hard-stop")


def test_the_trace_says_what_the_api_says(product, screen):
    screen.open(path(product, "trace"))
    decision = product.get(f"/v1/decisions/{product.denied['decision_id']}")
    screen.see(decision["reason"]["message"].split(",")[0])
    screen.see(decision["unblock"]["message"])
    line = next(line for line in decision["decision_trace"]["limits"] if line["id"] == "output-month")
    assert (line["used"], line["limit"], line["amount"]) == (1000, 1000, 7)
    # Not the first that there is: the tables of a page come in any order.
    table = screen.page.locator("[data-testid=stDataFrame] table[role=grid]").filter(has_text="output-month ← decided")
    table.wait_for(state="attached")
    text = table.inner_text()
    for shown in ("7 tokens", "1,000 tokens", "■ does not fit"):
        assert shown in text


def test_a_reservation_and_its_end_lead_to_each_other(product, screen):
    screen.open(path(product, "reservation"))
    for shown in ("Reserved", "1,200 tokens.output", "950 tokens.output", "committed"):
        screen.see(shown)
    screen.page.get_by_role("link", name="How it ended").click()
    screen.see("Limits afterwards")
    screen.see("What was really used is debited")
    screen.page.get_by_role("link", name="The decision that reserved").click()
    screen.see("Used before")


def test_open_reservations_are_on_the_customers_page(product, screen):
    screen.open("/customer?customer=reserving")
    screen.see("Open reservations")
    screen.see("700 tokens.output")
    screen.see("1 open")


def test_a_repair_says_what_was_put_right_in_its_unit_and_who_was_denied(product, screen):
    (denied,) = product.repair["wrongly_denied"]
    screen.open(path(product, "repair"))
    for shown in ("9,940 tokens", "1,200 tokens", denied["event_id"], "1 tokens.output"):
        screen.see(shown)


def test_a_correction_is_on_the_page_of_the_original_and_on_its_own(product, screen):
    made = product.correction
    told = f"corrected from 1,200 to 0 tokens by {made['created_by']}: the run was counted twice"
    screen.open(path(product, "original"))
    screen.see(told)
    screen.page.get_by_role("link", name="The correction").click()
    screen.see("Put right")
    screen.see(told)
    screen.see("output-month")
    screen.page.get_by_role("link", name="The decision that was corrected").click()
    screen.see("Used before")


def test_a_deep_link_survives_a_reload_and_an_unknown_id_is_told(product, screen):
    screen.open("/events?outcome=stopped&customer=stopped-one")
    screen.page.reload()
    screen.page.wait_for_selector("h1", timeout=20_000)
    expect(screen.page.get_by_label("Customer id")).to_have_value("stopped-one", timeout=10_000)
    screen.open("/customer?customer=nobody-at-all")
    screen.see("there is no customer")
    screen.open("/trace?id=d000-1-1")
    screen.see("there is no decision")


def test_a_stop_shows_in_events_within_five_seconds_and_pause_freezes(product, screen):
    screen.open("/events")
    screen.see("Live")
    product.contract("fresh", name="Fresh Stop", plan="starter", caps={"tokens.output": 1000})
    product.decide("fresh", 1000)
    screen.see("Fresh Stop", seconds=5)
    screen.page.get_by_text("Pause").click()
    screen.see("Paused")
    product.contract("later", name="Came Later", plan="starter", caps={"tokens.output": 1000})
    product.decide("later", 1000)
    product.wait_until_relayed()
    screen.page.wait_for_timeout(2500)
    assert "Came Later" not in screen.page.content()


def test_an_override_from_the_dialog_lets_the_customer_pass_once(product, screen):
    product.contract("dialog", name="Dialog", plan="starter", caps={"tokens.output": 1000})
    product.decide("dialog", 1000)
    screen.open("/customer?customer=dialog")
    screen.page.get_by_role("button", name="Override…").click()
    dialog = screen.page.get_by_role("dialog")
    make = dialog.get_by_role("button", name="Make the override")
    make.click()
    dialog.get_by_text("The id does not match: nothing was done.").wait_for()
    confirm = dialog.get_by_label("Type the customer's id")
    confirm.fill("dialog")
    confirm.press("Tab")
    make.click()
    dialog.get_by_text("Nothing was done: reason must be").wait_for()
    assert product.get("/v1/overrides", customer_id="dialog")["items"] == []
    reason = dialog.get_by_label("Reason")
    reason.fill("they called, upgrade is on its way")
    reason.press("Tab")
    screen.settle()
    make.dblclick()
    screen.see("Let pass:")
    made = product.get("/v1/overrides", customer_id="dialog")["items"]
    assert [(each["created_by"], each["reason"], each["max_units"]) for each in made] == [
        ("alex@ops", "they called, upgrade is on its way", 10_000)
    ]
    assert product.decide("dialog", 5)["reason"]["code"] == "allowed_by_override"
    screen.page.get_by_role("button", name="End it now").click()
    screen.see("None is in force")
    assert product.decide("dialog", 5)["decision"] == "stop"


def test_empty_lists_say_why(product, screen):
    screen.open("/events?customer=nobody-at-all")
    screen.see("Nothing matches")
    screen.open("/?q=no-such-customer")
    screen.see("No customer matches this filter")


def test_dead_letters_are_shown_with_their_cause_to_those_who_may_not_touch_them(product, screen):
    screen.open("/sync")
    screen.see("its period is closed")
    screen.see("spendgate sign-in --admin")
    assert screen.page.get_by_role("button", name="Retry all").count() == 0


def test_an_administrator_discards_one_and_retries_the_other(product, administrator):
    administrator.open("/sync")
    administrator.see("its period is closed")
    expect(administrator.page.get_by_role("button", name="Discard it…")).to_be_disabled()
    letters = product.dead_letters("late")
    grid = administrator.page.get_by_test_id("stDataFrame").last
    grid.click(position={"x": 15, "y": 50})  # the box of the first row, the newest event
    administrator.page.get_by_role("button", name="Discard it…").click()
    administrator.page.get_by_label("Reason").fill("short")
    administrator.page.get_by_label("Reason").press("Tab")
    administrator.page.get_by_role("button", name="Discard it", exact=True).click()
    administrator.see("reason must be")
    administrator.page.get_by_label("Reason").fill("invoiced by hand, ticket 4711")
    administrator.page.get_by_label("Reason").press("Tab")
    administrator.page.get_by_role("button", name="Discard it", exact=True).click()
    administrator.see(f"{letters[0]['item_id']} is discarded")
    month = f"{datetime.now(UTC):%Y-%m}"
    product.sandbox.post(f"/v1/accounts/late/periods/{month}/reopen").raise_for_status()
    administrator.page.get_by_role("button", name="Retry all").click()
    eventually(lambda: product.billed("late", product.source) == {"tokens.output": 3}, 20, "the other was taken")
    [discarded] = product.dead_letters("late")
    assert (discarded["state"], discarded["discarded_by"]) == ("discarded", "ada@ops")
    assert administrator.faults == []
