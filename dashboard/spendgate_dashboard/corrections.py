"""Corrections on the page of a decision: what was put right, by whom and why; on a correction's own page, itself."""

from __future__ import annotations

from typing import Any

import streamlit as st

from spendgate_dashboard.formats import ago, exact, instant, utc
from spendgate_dashboard.frame import api
from spendgate_dashboard.looks import colour


def show_corrections(decision: dict[str, Any]) -> None:
    """Nothing for decisions that nobody corrected."""
    if not decision["corrections"]:
        return
    own = decision["corrections"][0]["decision_id"] == decision["decision_id"]
    for made in decision["corrections"]:
        sentence = f"{made['meter']} {made['message']}".replace("<", "&lt;")
        st.html(f'<div class="sg-say" style="--sg: {colour("warning")}">✎ <b>Corrected</b> {sentence}</div>')
        st.caption(f"{utc(instant(made['created_at']))} ({ago(instant(made['created_at']))})")
        other, label = (
            (made["corrects"], "The decision that was corrected") if own else (made["decision_id"], "The correction")
        )
        st.page_link(st.session_state["pages"]["Trace"], label=label, query_params={"id": other})
    if own:
        _changes(decision)


def _changes(decision: dict[str, Any]) -> None:
    listed = api().get(f"/v1/decisions/{decision['corrections'][0]['corrects']}/corrections")["items"]
    rows: list[dict[str, Any]] = next(
        (each["limits"] for each in listed if each["decision_id"] == decision["decision_id"]), []
    )
    if not rows:
        return
    st.subheader("Put right")
    st.dataframe(
        {
            "Limit": [row["limit_id"] + (f" of {row['value']}" if row["value"] else "") for row in rows],
            "Used before": [exact(row["before"], row["unit"]) if row["counted"] else "–" for row in rows],
            "Used after": [
                exact(row["after"], row["unit"]) if row["counted"] else "kept no longer: only the books changed"
                for row in rows
            ],
        },
        hide_index=True,
        height="content",
        alt="What the correction did to each limit",
    )
