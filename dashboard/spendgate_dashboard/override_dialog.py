"""The override dialog: what will happen, why, until when, and the customer's id typed to be sure which one it is.

A double click makes one override: the form carries an idempotency key from the moment it is opened.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from spendgate_dashboard.api import ApiDown, ApiRefused
from spendgate_dashboard.formats import utc
from spendgate_dashboard.frame import api

DURATIONS = {
    "15 minutes": timedelta(minutes=15),
    "1 hour": timedelta(hours=1),
    "8 hours": timedelta(hours=8),
    "1 day": timedelta(days=1),
    "7 days": timedelta(days=7),
}
KINDS = {"Let pass": "let_pass", "Stop": "stop"}


def open_override_dialog(customer: dict[str, Any]) -> None:
    st.session_state["override_key"] = str(uuid.uuid4())
    _dialog(customer)


@st.dialog("Override", width="medium")
def _dialog(customer: dict[str, Any]) -> None:
    st.markdown(f"**{customer['name']}** is {customer['state'].replace('ok', 'allowed')} now.")
    kind = st.segmented_control("What", list(KINDS), default="Let pass", key="override_kind") or "Let pass"
    units = 0
    if kind == "Let pass":
        units = int(
            st.number_input(
                "At most this many units, over all meters", min_value=1, max_value=10**12, value=10_000, step=1000
            )
        )
    duration = st.selectbox("For", list(DURATIONS), index=1)
    until = datetime.now(UTC) + DURATIONS[duration]
    if kind == "Let pass":
        st.info(
            f"Limits are bypassed for at most {units:,} units until {utc(until)}; every unit is still counted and billed. A suspended customer stays stopped."
        )
    else:
        st.info(f"Every run is stopped until {utc(until)}, whatever the limits say.")
    reason = st.text_area("Reason (10 characters or more; it is kept for ever)", max_chars=1000)
    paid_by = st.radio("Who pays", ["customer", "goodwill"], horizontal=True)
    typed = st.text_input(f"Type the customer's id, {customer['customer_id']}, to confirm")
    if not st.button("Make the override", type="primary", key="override_make"):
        return
    if typed != customer["customer_id"]:
        st.error("The id does not match: nothing was done.")
        return
    body = {
        "customer_id": customer["customer_id"],
        "kind": KINDS[kind],
        "reason": reason,
        "paid_by": paid_by,
        "expires_at": until.isoformat(),
    }
    if kind == "Let pass":
        body["max_units"] = units
    # The end of the first attempt is the end of all its repeats.
    body = (
        st.session_state.setdefault(f"override_body_{st.session_state['override_key']}", body)
        if len(reason.strip()) >= 10
        else body
    )
    try:
        api().post("/v1/overrides", body, idempotency_key=st.session_state["override_key"])
    except (ApiRefused, ApiDown) as exc:
        st.session_state.pop(f"override_body_{st.session_state['override_key']}", None)
        st.error(f"Nothing was done: {exc}")
        return
    st.rerun()


def revoke_button(override: dict[str, Any]) -> None:
    """Ends an override now; who did it is the one signed in."""
    if st.button("End it now", key=f"revoke_{override['id']}"):
        try:
            api().delete(f"/v1/overrides/{override['id']}", {})
        except (ApiRefused, ApiDown) as exc:
            st.error(f"Not ended: {exc}")
            return
        st.rerun()
