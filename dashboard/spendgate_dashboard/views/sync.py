"""Sync: how fresh the mirror is, what waits for each sink, whether the books agree, and what a sink refused for good."""

from __future__ import annotations

from typing import Any

import streamlit as st

from spendgate_dashboard.books import show_books
from spendgate_dashboard.dead_letters import show_dead_letters
from spendgate_dashboard.formats import ago, instant, span
from spendgate_dashboard.frame import api, banner, live


def show() -> None:
    st.title("Sync")

    @st.fragment(run_every=3)
    def numbers() -> None:
        live(_numbers)

    numbers()
    live(show_books)
    # Not live: a row that somebody chose stays under his hand.
    live(lambda: show_dead_letters(api().get("/v1/sync")["relays"]))


def _numbers() -> None:
    banner(api().get("/v1/summary"))
    sync = api().get("/v1/sync")
    mirror, outbox, verifier = sync["mirror"], sync["outbox"], sync["verifier"]
    age = mirror["age_seconds"]
    cards = st.columns(4)
    cards[0].metric(
        "UsageBox data",
        "never read" if age is None else f"{span(age)} old",
        border=True,
        help=mirror["error"] or f"From {mirror['host'] or 'no UsageBox'}; {mirror['customers']:,} customers",
    )
    cards[1].metric(
        "On the way to the store",
        f"{outbox['entries']:,}",
        border=True,
        help=f"The oldest is {span(outbox['oldest_age_seconds'])} old",
    )
    cards[2].metric(
        "Dead letters",
        f"{sum(sink['dead'] for sink in sync['relays']):,}",
        border=True,
        help="Refused by a sink for good; nobody else waits for them",
    )
    cards[3].metric(
        "Mismatches",
        f"{verifier['mismatches']:,}",
        border=True,
        help="Stored decisions that the definition decides otherwise",
    )
    st.subheader("Sinks")
    _sinks(sync["relays"])


def _sinks(sinks: list[dict[str, Any]]) -> None:
    if not sinks:
        st.info("Nothing was on its way to a sink yet: the first decision of a customer is.")
        return
    st.dataframe(
        {
            "Sink": [sink["sink"] for sink in sinks],
            "State": [_state(sink) for sink in sinks],
            "Waiting": [sink["pending"] + sink["attempted"] for sink in sinks],
            "Oldest": [ago(instant(sink["oldest_pending_at"])) if sink["oldest_pending_at"] else "" for sink in sinks],
            "Delivered": [sink["delivered"] for sink in sinks],
            "Dead": [sink["dead"] for sink in sinks],
            "Discarded": [sink["discarded"] for sink in sinks],
            "Error": [sink["error"] or "" for sink in sinks],
        },
        hide_index=True,
        alt="Sinks and what waits for them",
    )


def _state(sink: dict[str, Any]) -> str:
    if sink["attempted"] and sink["error"]:
        return "■ held up"
    return "▲ dead letters" if sink["dead"] else "✓ goes on"
