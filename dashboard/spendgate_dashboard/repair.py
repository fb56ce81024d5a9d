"""A repair: what counters held wrongly, and who was denied because of it."""

from __future__ import annotations

import streamlit as st

from spendgate_dashboard.formats import ago, exact, instant, utc
from spendgate_dashboard.frame import api
from spendgate_dashboard.looks import colour
from spendgate_dashboard.reservations import quantities_text


def show_repair(decision_id: str) -> None:
    repair = api().get(f"/v1/repairs/{decision_id}")
    st.html(
        f'<div class="sg-say" style="--sg: {colour("warning")}">✚ <b>Repaired</b> What counters held for reservations did '
        "not add up to those that were open.</div>"
    )
    st.caption(f"`{decision_id}` · {utc(instant(repair['at']))} ({ago(instant(repair['at']))})")
    st.subheader("Put right")
    rows = repair["counters"]
    if rows:
        st.dataframe(
            {
                "Limit": [row["limit_id"] + (f" of {row['value']}" if row["value"] else "") for row in rows],
                "Held before": [exact(row["before"], row["unit"]) for row in rows],
                "Held by open reservations": [exact(row["after"], row["unit"]) for row in rows],
            },
            hide_index=True,
            height="content",
            alt="Counters before and after the repair",
        )
    if repair["calendar"]:
        st.caption("A reservation had lost its end, or the sweep would not have come by to end it.")
    st.subheader("Denied because of it")
    denied, looked_at, counted = (
        repair[name] for name in ("wrongly_denied", "denials_looked_at", "denials_only_counted")
    )
    if denied:
        st.dataframe(
            {
                "When": [ago(instant(row["at"])) for row in denied],
                "Event": [row["event_id"] for row in denied],
                "Asked": [quantities_text(row["quantities"]) for row in denied],
                "Limit": [row["limit_id"] for row in denied],
                "Decision": [row["decision_id"] for row in denied],
            },
            hide_index=True,
            alt="Decisions that were denied and would have fitted",
        )
    elif looked_at:
        st.caption(f"Nobody: of {looked_at:,} denials none would have fitted.")
    elif not any(row["after"] < row["before"] for row in rows):
        st.caption("Nobody: no counter held too much.")
    elif not counted:
        st.caption("Nobody was denied meanwhile.")
    if counted:
        further = "further denials" if looked_at else "denials"
        st.caption(f"{counted:,} {further} were only counted: nobody can decide them again.")
    st.page_link(
        st.session_state["pages"]["Customer"],
        label=f"Customer {repair['customer_name']}",
        query_params={"customer": repair["customer_id"]},
    )
