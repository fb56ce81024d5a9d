"""Events: the newest decisions and limit events, live, until Pause."""

from __future__ import annotations

import csv
import io
from typing import Any

import streamlit as st

from spendgate_dashboard.formats import ago, instant, safe_cell, utc
from spendgate_dashboard.frame import api, banner, live
from spendgate_dashboard.looks import EVENT_KINDS, named, shown

OUTCOME_FILTERS = {"all": None, "allowed": "allow", "wait": "throttle", "stopped": "stop", "limit events": "events"}
NEWEST = 200


def show() -> None:
    st.title("Events")
    top = st.columns([4, 2, 2, 1], vertical_alignment="bottom")
    chosen = top[0].pills("Outcome", list(OUTCOME_FILTERS), default="all", key="outcome", bind="query-params") or "all"
    customer = top[1].text_input("Customer id", key="customer", bind="query-params", placeholder="any")
    reason = top[2].text_input("Reason", key="reason", bind="query-params", placeholder="such as quota_exceeded")
    paused = top[3].toggle("Pause", key="paused")

    @st.fragment(run_every=None if paused else 2)
    def feed() -> None:
        live(lambda: _feed(OUTCOME_FILTERS[chosen], customer or None, reason or None, paused=paused))

    feed()


def _feed(outcome: str | None, customer: str | None, reason: str | None, *, paused: bool) -> None:
    banner(api().get("/v1/summary"))
    frozen = (outcome, customer, reason)
    if not paused or st.session_state.get("frozen_for") != frozen:
        st.session_state["feed"] = _newest(outcome, customer, reason)
        st.session_state["frozen_for"] = frozen
    rows: list[dict[str, Any]] = st.session_state["feed"]
    counts = {
        name: sum(row["count"] for row in rows if row["what"] == name)
        for name in dict.fromkeys(row["what"] for row in rows)
    }
    state = "Paused" if paused else "Live"
    st.caption(f"{state} · " + (" · ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing yet"))
    if not rows:
        st.info("Nothing matches. Decisions appear here within a second of being made.")
        return
    table = {
        "When": [ago(instant(row["at"])) for row in rows],
        "At (UTC)": [utc(instant(row["at"])).removesuffix(" UTC") for row in rows],
        "What": [row["what"] for row in rows],
        "Customer": [row["customer_name"] for row in rows],
        "Why": [row["message"] + (f" ({row['count']} times)" if row["count"] > 1 else "") for row in rows],
        "Limit": [row["limit_id"] or "" for row in rows],
        "Decision": [row["decision_id"] or "" for row in rows],
    }
    picked = st.dataframe(
        table,
        hide_index=True,
        height=600,
        on_select="rerun",
        selection_mode="single-row",
        key="events_table",
        alt="Newest events first",
    )
    selected = picked["selection"]["rows"]
    if selected and rows[selected[0]]["decision_id"]:
        st.switch_page(st.session_state["pages"]["Trace"], query_params={"id": rows[selected[0]]["decision_id"]})
    st.download_button(
        "Export as CSV", _csv(table), "spendgate-events.csv", "text/csv", key="export", on_click="ignore"
    )


def _newest(outcome: str | None, customer: str | None, reason: str | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if outcome != "events":
        page = api().get("/v1/decisions", limit=NEWEST, outcome=outcome, customer_id=customer, reason=reason)
        rows += [row | {"what": shown(row)} for row in page["items"]]
    if outcome in (None, "events") and reason is None:
        page = api().get("/v1/guardrail-events", limit=NEWEST, customer_id=customer)
        rows += [row | {"what": named(EVENT_KINDS, row["kind"]), "count": 1} for row in page["items"]]
    return sorted(rows, key=lambda row: str(row["at"]), reverse=True)[:NEWEST]


def _csv(table: dict[str, list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    names = [name for name in table if name != "When"]
    writer.writerow(names)
    writer.writerows([safe_cell(value) for value in row] for row in zip(*(table[name] for name in names), strict=True))
    return text.getvalue()
