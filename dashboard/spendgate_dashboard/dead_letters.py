"""What a sink refused for good: why, and the buttons of those who may deal with it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from spendgate_dashboard.api import ApiDown, ApiRefused
from spendgate_dashboard.formats import ago, instant, utc
from spendgate_dashboard.frame import api

SHOWN = 200
STATES = {"wait for somebody": "dead", "discarded": "discarded"}


def show_dead_letters(sinks: list[dict[str, Any]]) -> None:
    """`sinks` as the API tells them; those with dead letters can be chosen."""
    st.subheader("Dead letters")
    refused = [sink["sink"] for sink in sinks if sink["dead"] or sink["discarded"]]
    if not refused:
        st.info("None: no sink has refused anything for good.")
        return
    top = st.columns([3, 2], vertical_alignment="bottom")
    sink = top[0].pills("Sink", refused, default=refused[0], key="sink", bind="query-params") or refused[0]
    chosen = top[1].segmented_control("Which", list(STATES), default="wait for somebody", key="letters")
    state = STATES[chosen or "wait for somebody"]
    page = api().get("/v1/dead-letters", sink=sink, state=state, limit=SHOWN)
    letters: list[dict[str, Any]] = page["items"]
    if not letters:
        st.caption("None of these.")
        return
    may = "admin" in api().get("/v1/me")["scopes"]
    letter = _chosen(letters, state, selectable=may and state == "dead")
    if page["next_cursor"]:
        st.caption(f"The newest {SHOWN} are shown; `spendgate dead-letters list {sink}` has all.")
    if state != "dead":
        return
    if not may:
        st.caption("To deal with them, sign in with a link of `spendgate sign-in --admin`.")
        return
    _buttons(sink, letter)


def _chosen(letters: list[dict[str, Any]], state: str, *, selectable: bool) -> dict[str, Any] | None:
    table = {
        "When": [ago(instant(each["at"])) for each in letters],
        "At (UTC)": [utc(instant(each["at"])).removesuffix(" UTC") for each in letters],
        "Customer": [each["customer_name"] for each in letters],
        "Event": [each["item_id"] for each in letters],
        "Error": [each["error"] or "" for each in letters],
    }
    if state == "discarded":
        table["Discarded by"] = [each["discarded_by"] for each in letters]
        table["Because"] = [each["discard_reason"] for each in letters]
    if not selectable:
        st.dataframe(table, hide_index=True, alt="Dead letters, the newest first")
        return None
    picked = st.dataframe(
        table,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="dead_letters",
        alt="Dead letters, the newest first",
    )
    rows = picked["selection"]["rows"]
    return letters[rows[0]] if rows and rows[0] < len(letters) else None


def _buttons(sink: str, letter: dict[str, Any] | None) -> None:
    told = st.session_state.pop("dead_letters_told", None)
    if told:
        st.success(told)
    row = st.columns([1, 1, 1, 3])
    place = f"/v1/dead-letters/{sink}" + (f"/{letter['position']}" if letter else "")
    if row[0].button("Retry it", disabled=letter is None, key="retry_one", help="Choose a row first"):
        _do(f"{place}/retry", {}, f"{letter['item_id'] if letter else ''} is tried again")
    if row[1].button("Discard it…", disabled=letter is None, key="discard_one", help="Choose a row first") and letter:
        _discard(sink, letter)
    if row[2].button("Retry all", key="retry_all"):
        _do(f"/v1/dead-letters/{sink}/retry", {}, f"All dead letters of {sink} are tried again")


@st.dialog("Discard", width="medium")
def _discard(sink: str, letter: dict[str, Any]) -> None:
    st.markdown(f"**{sink}** will never get `{letter['item_id']}` of **{letter['customer_name']}**.")
    st.caption(letter["error"] or "")
    reason = st.text_area("Reason (10 characters or more; it is kept for ever)", max_chars=1000)
    if st.button("Discard it", type="primary", key="discard_make"):
        path = f"/v1/dead-letters/{sink}/{letter['position']}/discard"
        _do(path, {"reason": reason}, f"{letter['item_id']} is discarded")


def _do(path: str, body: dict[str, Any], done: str) -> None:
    try:
        api().post(path, body)
    except (ApiRefused, ApiDown) as exc:
        st.error(f"Nothing was done: {exc}")
        return
    st.session_state["dead_letters_told"] = done
    st.rerun()
