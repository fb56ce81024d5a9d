"""Overview: who is stopped, who soon will be, and how fresh this is. A row leads to its customer."""

from __future__ import annotations

from typing import Any

import streamlit as st

from spendgate_dashboard.formats import ago, exact, instant, percent, short, span, within
from spendgate_dashboard.frame import api, banner, live
from spendgate_dashboard.looks import STATES, named

STATE_FILTERS = {"all": None, "stopped": "stopped", "throttled": "throttled", "suspended": "suspended", "allowed": "ok"}
PAGE = 200


def show() -> None:
    st.title("Overview")
    filters = st.columns([2, 3, 2])
    search = filters[0].text_input("Customer", placeholder="name or id", key="q", bind="query-params")
    chosen = filters[1].pills("State", list(STATE_FILTERS), default="all", key="state", bind="query-params") or "all"
    sort = filters[2].selectbox("Sorted by", ["runs out first", "name"], key="sort", bind="query-params")

    @st.fragment(run_every=3)
    def numbers() -> None:
        live(_numbers)

    @st.fragment(run_every=5)
    def table() -> None:
        live(lambda: _table(search, STATE_FILTERS[chosen], "name" if sort == "name" else "exhaustion"))

    numbers()
    table()


def _numbers() -> None:
    summary = api().get("/v1/summary")
    banner(summary)
    minute = summary["decisions_last_minute"]
    age = summary["mirror_age_seconds"]
    cards = st.columns(5)
    cards[0].metric(
        "■ Stopped now", summary["stopped"] + summary["suspended"], border=True, help="Stopped or suspended customers"
    )
    cards[1].metric(
        "◐ Throttled now", summary["throttled"], border=True, help="Customers whom a rate limit denied in the last 10 s"
    )
    cards[2].metric(
        "▲ Run out within 24 h",
        summary["exhausting_within_24h"],
        border=True,
        help="At the burn of the last hour, before the limit resets",
    )
    cards[3].metric(
        "Decisions, last minute",
        f"{sum(minute.values()):,}",
        border=True,
        help=f"{minute['allow']:,} allowed, {minute['throttle']:,} told to wait, {minute['stop']:,} stopped",
    )
    cards[4].metric(
        "UsageBox data",
        "never read" if age is None else f"{span(age)} old",
        border=True,
        help=f"{summary['customers']:,} customers are mirrored; {summary['outbox_entries']:,} decisions are on their way to the store",
    )


def _table(search: str | None, state: str | None, sort: str) -> None:
    page = api().get("/v1/customers", limit=PAGE, q=search or None, state=state, sort=sort)
    rows: list[dict[str, Any]] = page["items"]
    if not rows:
        filtered = bool(search or state)
        st.info(
            "No customer matches this filter."
            if filtered
            else "No customers yet: the daemon mirrors them from UsageBox, or PUT /v1/customers makes one."
        )
        return
    columns: dict[str, list[Any]] = {
        "State": [named(STATES, row["state"]) for row in rows],
        "Customer": [row["name"] for row in rows],
        "Plan": [row["plan"] for row in rows],
        "Tightest limit": [_tightest(row["tightest_limit"]) for row in rows],
        "Used": [min(100, row["tightest_limit"]["used_percent"]) if row["tightest_limit"] else None for row in rows],
        "Share": [_share(row["tightest_limit"]) for row in rows],
        "Burn per hour": [_burn(row["burn_per_hour"]) for row in rows],
        "Runs out": [_runs_out(row) for row in rows],
        "Seen": [ago(instant(row["updated_at"])) for row in rows],
    }
    picked = st.dataframe(
        columns,
        hide_index=True,
        height=min(620, 38 + 35 * len(rows)),
        on_select="rerun",
        selection_mode="single-row",
        key="customers",
        alt="Customers by time to exhaustion",
        column_config={
            "Used": st.column_config.ProgressColumn("Used", min_value=0, max_value=100, format=" ", width="small"),
            "Share": st.column_config.TextColumn("", width="small"),
            "Customer": st.column_config.TextColumn(width="medium"),
        },
    )
    if page["next_cursor"]:
        st.caption(f"The first {PAGE} are shown; filter by name or state to see others.")
    selected = picked["selection"]["rows"]
    if selected:
        st.switch_page(
            st.session_state["pages"]["Customer"], query_params={"customer": rows[selected[0]]["customer_id"]}
        )


def _tightest(limit: dict[str, Any] | None) -> str:
    if limit is None:
        return "no limit in force"
    return f"{limit['id']}: {short(limit['used'], limit['unit'])} of {short(limit['limit'], limit['unit'])}"


def _share(limit: dict[str, Any] | None) -> str:
    return percent(limit["used"], limit["limit"]) if limit is not None else ""


def _burn(burn: dict[str, Any] | None) -> str:
    return exact(burn["quantity"], burn["unit"]) if burn is not None else "–"


def _runs_out(row: dict[str, Any]) -> str:
    if row["state"] in ("stopped", "suspended"):
        return "has run out" if row["state"] == "stopped" else "–"
    if row["exhausts_at"]:
        return within(instant(row["exhausts_at"]))
    return "not before it resets" if row["burn_per_hour"] else "burn not known yet"
