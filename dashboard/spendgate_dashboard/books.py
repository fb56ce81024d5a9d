"""The three books on a page: what differs, why, and comparing again."""

from __future__ import annotations

from typing import Any

import streamlit as st

from spendgate_dashboard.formats import ago, instant, utc
from spendgate_dashboard.frame import api

CAUSES = {
    "in_flight": "in flight",
    "late": "late",
    "dead_lettered": "dead letters",
    "rolled_up_too_early": "rolled up too early",
    "not_counted": "under a plan without this limit",
    "drift": "drift",
}
"""As people read them."""


def show_books() -> None:
    """What Redis enforced, the store recorded and UsageBox bills, where they differ."""
    st.subheader("Enforced, recorded, billed")
    chosen = st.segmented_control("Lines", ["that differ", "all"], default="that differ", key="books_shown")
    query = {} if chosen == "all" else {"differs": "true"}
    found = api().get("/v1/books", limit=200, **query)
    counts = found["counts"]
    if not counts["lines"]:
        st.info("Nothing was compared yet: the daemon compares every customer in turn, within a minute of its start.")
        return
    equal = counts["lines"] - counts["differ"]
    oldest = ago(instant(counts["oldest_compared_at"]))
    st.caption(
        f"{counts['lines']:,} lines: {equal:,} equal, {counts['differ']:,} differ, {counts['drift']:,} of them without a "
        f"cause. The longest uncompared was compared {oldest}."
    )
    if not found["items"]:
        st.success("All three books are equal.")
        return
    _table(found["items"])
    if found["next_cursor"]:
        st.caption("The first 200 are shown; `spendgate reconcile` lists them all.")


def show_books_of(customer_id: str) -> None:
    """The same of one customer, as last compared."""
    st.subheader("Enforced, recorded, billed")
    lines = api().get("/v1/books", limit=200, customer_id=customer_id)["items"]
    if lines:
        _table(lines, of_one=True)
    else:
        st.caption("Not compared yet, or nothing was used: the daemon compares every customer in turn.")


def _table(lines: list[dict[str, Any]], *, of_one: bool = False) -> None:
    customers = {} if of_one else {"Customer": [line["customer_name"] for line in lines]}
    st.dataframe(
        customers
        | {
            "Limit or meter": [line["limit_id"] or ", ".join(line["meters"]) for line in lines],
            "Period from": [utc(instant(line["period_start"]), date=True) for line in lines],
            "Unit": [f"{line['unit']}s" for line in lines],
            "Enforced": [_number(line["enforced"], "not counted") for line in lines],
            "Recorded": [_number(line["recorded"]) for line in lines],
            "Billed": [_number(line["billed"], "no UsageBox") for line in lines],
            "Difference": [_told(line) for line in lines],
            "Outside the gate": [_number(line["external"]) for line in lines],
            "Compared": [ago(instant(line["compared_at"])) for line in lines],
        },
        hide_index=True,
        alt="Lines of the books",
    )


def _number(value: int | None, otherwise: str = "") -> str:
    return otherwise if value is None else f"{value:,}"


def _told(line: dict[str, Any]) -> str:
    """How much the second of two books lacks or has more, by cause."""
    parts = [
        f"{'−' if each['quantity'] > 0 else '+'}{abs(each['quantity']):,} {CAUSES[each['cause']]}"
        for each in line["differences"]
        if each["cause"] != "external"
    ]
    return ", ".join(parts) or "none"
