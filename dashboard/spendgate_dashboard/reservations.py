"""Reservations on the pages that speak of them: those that are open, and what became of one."""

from __future__ import annotations

from typing import Any

import streamlit as st

from spendgate_dashboard.formats import ago, instant, utc, within
from spendgate_dashboard.frame import api


def quantities_text(quantities: dict[str, int]) -> str:
    """`1,200 tokens.output, 1 ai_agent_run`."""
    return ", ".join(f"{quantity:,} {meter}" for meter, quantity in quantities.items()) or "nothing"


def show_open(customer_id: str) -> None:
    """A customer's open reservations; nothing where none is open."""
    found = api().get(f"/v1/customers/{customer_id}/reservations")
    if not found["total"]:
        return
    rows = found["items"]
    late = sum(row["overdue"] for row in rows)
    st.subheader("Open reservations")
    st.caption(
        f"{found['total']:,} open"
        + (f", the first {len(rows)} to end" if len(rows) < found["total"] else "")
        + (f" · ▲ {late} past the deadline: somebody forgot to end them" if late else "")
    )
    st.dataframe(
        {
            "Began": [ago(instant(row["effective_at"])) for row in rows],
            "Holds": [quantities_text(row["quantities"]) for row in rows],
            "Deadline": [
                "▲ overdue, ended soon" if row["overdue"] else within(instant(row["deadline"])) for row in rows
            ],
            "Event": [row["event_id"] for row in rows],
            "Decision": [row["decision_id"] for row in rows],
        },
        hide_index=True,
        height="content" if len(rows) <= 5 else 220,
        alt="Open reservations, the first to end first",
    )


def show_one(decision: dict[str, Any], trace: dict[str, Any]) -> None:
    """What was held, until when, and what became of it; nothing for decisions that hold nothing."""
    held = decision["reservation"]
    if held is None or held["status"] == "corrected":
        return
    end = decision["end"] or (held if decision["kind"] == "finish" else None)
    st.subheader("Reservation")
    rows = {
        "Reserved": quantities_text(trace["event"]["quantities"]),
        "Began": utc(instant(held["effective_at"])),
        "Deadline": utc(instant(held["deadline"])) if held["deadline"] else "–",
        "Status": (end or held)["status"],
        "Really used": quantities_text(end["actual"]) if end else "not known yet",
        "Debited": quantities_text(end["committed"]) if end else "nothing yet",
    }
    st.dataframe(
        {"What": list(rows), "Value": list(rows.values())},
        hide_index=True,
        height="content",
        alt="The reservation of this decision",
    )
    other, label = (
        (decision["end"] or held)["decision_id"],
        "How it ended" if decision["end"] else "The decision that reserved",
    )
    if other:
        st.page_link(st.session_state["pages"]["Trace"], label=label, query_params={"id": other})
