"""Trace: why one decision came out as it did, every check with its numbers, computed again from the stored inputs."""

from __future__ import annotations

from typing import Any

import streamlit as st

from spendgate_dashboard import reservations
from spendgate_dashboard.corrections import show_corrections
from spendgate_dashboard.formats import ago, exact, instant, utc
from spendgate_dashboard.frame import api, banner, live
from spendgate_dashboard.looks import STATES, colour, look_of, named
from spendgate_dashboard.repair import show_repair

RESULTS = {"pass": "✓ fits", "deny": "■ does not fit", "not_applicable": "– not concerned"}


def show() -> None:
    decision_id = st.query_params.get("id", "")
    st.title("Trace")
    if not decision_id:
        typed = st.text_input(
            "Decision id", placeholder="d017-1795000000000-42, as in an answer, an event or an invoice line"
        )
        if typed:
            st.query_params["id"] = typed.strip()
            st.rerun()
        return

    @st.fragment(run_every=5)
    def body() -> None:
        live(lambda: _trace(decision_id))

    body()


def _trace(decision_id: str) -> None:
    decision = api().get(f"/v1/decisions/{decision_id}")
    banner(api().get("/v1/summary"))
    if decision["kind"] == "repair":
        show_repair(decision_id)
        return
    if "decision_trace" not in decision:
        further = "further denials of one rule within one second; it has no single event."
        counted = f" This entry stands for {decision['count']:,} {further}" if decision["kind"] == "denials" else ""
        st.info(f"{decision['message']}{counted}")
        return
    trace = decision["decision_trace"]
    glyph, word, tone = look_of(decision["decision"], trace["mode"])
    message = decision["reason"]["message"].replace("<", "&lt;")
    st.html(f'<div class="sg-say" style="--sg: {colour(tone)}">{glyph} <b>{word}</b> {message}</div>')
    if decision["unblock"]:
        st.markdown(f"What would help: **{decision['unblock']['message']}**")
    if decision["mismatch"]:
        st.error(
            "The definition decides this event otherwise than the script did. This is a fault of Spendgate: report it.",
            icon="⚠️",
        )
    st.caption(f"`{decision_id}` · {utc(instant(decision['effective_at']))} ({ago(instant(decision['effective_at']))})")
    show_corrections(decision)
    reservations.show_one(decision, trace)
    _checks(decision, trace)
    left, right = st.columns(2)
    with left:
        _inputs(decision, trace)
    with right:
        _after(decision, trace)
    st.caption("Link to this trace")
    st.code(f"{(st.context.url or '').split('?')[0]}?id={decision_id}", language=None)
    st.page_link(
        st.session_state["pages"]["Customer"],
        label=f"Customer {decision['customer_name']}",
        query_params={"customer": decision["customer_id"]},
    )


def _checks(decision: dict[str, Any], trace: dict[str, Any]) -> None:
    ended = decision["kind"] == "finish"
    st.subheader("Limits afterwards" if ended else "Checks")
    lines = trace["limits"]
    if not lines:
        st.info("No limit was in force: the decision was made before limits are looked at, or the plan has none.")
        return
    st.dataframe(
        {
            "Result": [
                RESULTS[line["result"]]
                + (", let pass" if line["bypassed"] else "")
                + (" (shadow)" if line["mode"] == "shadow" else "")
                for line in lines
            ],
            "Limit": [line["id"] + (" ← decided" if line["id"] == trace["deciding_limit"] else "") for line in lines],
            "Kind": [line["kind"].replace("_", " ") for line in lines],
            "Debited" if ended else "Asked": [
                exact(line["amount"], line["unit"]) if line["amount"] else "–" for line in lines
            ],
            "Used" if ended else "Used before": [
                exact(line["used"], line["unit"]) if line["kind"] != "per_event" else "–" for line in lines
            ],
            **(
                {"Reserved": [exact(line["reserved"], line["unit"]) if line["reserved"] else "–" for line in lines]}
                if ended or any(line["reserved"] for line in lines)
                else {}
            ),
            "Outside the gate": [exact(line["external"], line["unit"]) if line["external"] else "–" for line in lines],
            "Limit value": [exact(line["limit"], line["unit"]) for line in lines],
            "Left after": [
                exact(line["remaining"], line["unit"]) if line["remaining"] is not None else "–" for line in lines
            ],
            "Resets": [utc(instant(line["period_end"])) if line["period_end"] else "–" for line in lines],
        },
        hide_index=True,
        alt="Every check of this decision",
    )


def _inputs(decision: dict[str, Any], trace: dict[str, Any]) -> None:
    st.subheader("Inputs")
    event, policy = trace["event"], decision["policy"]
    rows = {
        "Customer": decision["customer_id"],
        "Event id": event["event_id"],
        **{f"Quantity of {meter}": f"{quantity:,}" for meter, quantity in event["quantities"].items()},
        **{f"metadata.{name}": str(value) for name, value in event["metadata"].items()},
        "Plan": f"{policy['plan']} ({policy['status']})",
        "Terms": f"version {policy['version']} from {policy['source']}",
        "Policy": trace["policy_digest"],
        "Redis clock": trace["clock"],
    }
    st.dataframe(
        {"Input": list(rows), "Value": list(rows.values())},
        hide_index=True,
        height="content",
        alt="Inputs of this decision",
    )


def _after(decision: dict[str, Any], trace: dict[str, Any]) -> None:
    st.subheader("Result")
    verified = {True: "yes, it agrees", False: "NO, it disagrees", None: "not yet"}[decision["verified"]]
    rows = {
        "Reason": decision["reason"]["code"],
        "Customer before": named(STATES, trace["previous_state"]),
        "Customer after": named(STATES, trace["customer_state"]),
        "Override": trace["override_id"] or "none",
        "Decided again by the verifier": verified,
        **{
            f"To {each['sink']}": f"{each['state']}" + (f": {each['error']}" if each["error"] else "")
            for each in decision["deliveries"]
        },
    }
    st.dataframe(
        {"What": list(rows), "Value": list(rows.values())},
        hide_index=True,
        height="content",
        alt="Result of this decision",
    )
