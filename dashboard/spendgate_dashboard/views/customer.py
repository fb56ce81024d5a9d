"""Customer: one sentence of state, burn against the cap, the numbers side by side, and the override that lets them pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from spendgate_dashboard import reservations
from spendgate_dashboard.books import show_books_of
from spendgate_dashboard.charts import CONFIG, burn_chart
from spendgate_dashboard.formats import ago, exact, instant, percent, utc, within
from spendgate_dashboard.frame import api, banner, live
from spendgate_dashboard.looks import STATES, colour, named, shown
from spendgate_dashboard.override_dialog import open_override_dialog, revoke_button

RANGES = {
    "24 hours": (timedelta(days=1), "minute"),
    "7 days": (timedelta(days=7), "hour"),
    "this period": (timedelta(days=35), "hour"),
}


def show() -> None:
    customer_id = st.query_params.get("customer", "")
    if not customer_id:
        st.title("Customer")
        _choose()
        return

    @st.fragment(run_every=3)
    def head() -> None:
        live(lambda: _head(customer_id), title="Customer")

    @st.fragment(run_every=6)
    def rest() -> None:
        live(lambda: _rest(customer_id))

    head()
    rest()


def _choose() -> None:
    def body() -> None:
        rows = api().get("/v1/customers", limit=200, sort="name")["items"]
        if not rows:
            st.info("No customers yet.")
            return
        names = {row["customer_id"]: f"{row['name']} ({row['customer_id']})" for row in rows}
        picked = st.selectbox(
            "Which one?", list(names), index=None, format_func=lambda key: names[key], placeholder="Choose a customer"
        )
        if picked:
            st.query_params["customer"] = picked
            st.rerun()

    live(body)


def _head(customer_id: str) -> None:
    customer = api().get(f"/v1/customers/{customer_id}")
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.title(customer["name"])
    banner(api().get("/v1/summary"))
    if right.button("⚑ Override…", width="stretch", type="primary"):
        open_override_dialog(customer)
    _, _, tone = STATES[customer["state"]]
    sentence = customer["sentence"].replace("<", "&lt;")
    word, _, rest = sentence.partition(" ")
    st.html(
        f'<div class="sg-say" style="--sg: {colour(tone)}">{named(STATES, customer["state"])[:1]} <b>{word}</b> {rest}</div>'
    )
    policy = customer["policy"]
    since = f" · this state {ago(instant(customer['state_since']))}" if customer["state_since"] else ""
    st.caption(
        f"`{customer_id}` · plan **{customer['plan']}** ({customer['status']}) · terms version {policy['version']} from "
        f"{policy['source']}, {ago(instant(policy['updated_at']))}{since}"
    )


def _rest(customer_id: str) -> None:
    customer = api().get(f"/v1/customers/{customer_id}")
    _burn(customer)
    _limits(customer)
    reservations.show_open(customer_id)
    show_books_of(customer_id)
    left, right = st.columns([3, 2])
    with left:
        _overrides(customer)
    with right:
        _flags(customer)
    _provenance(customer)
    _decisions(customer_id)


def _burn(customer: dict[str, Any]) -> None:
    quotas = [line for line in customer["limits"] if line["kind"] == "quota" and line["cap"] is not None]
    st.subheader("Use")
    if not quotas:
        st.info("This plan counts nothing per period, so there is no burn against a cap to draw.")
        return
    controls = st.columns([2, 3])
    chosen = controls[0].selectbox("Limit", [line["id"] for line in quotas], key="chart_limit")
    span_name = (
        controls[1].segmented_control("Range", list(RANGES), default="this period", key="chart_range") or "this period"
    )
    line = next(line for line in quotas if line["id"] == chosen)
    span, step = RANGES[span_name]
    now = datetime.now(UTC)
    start, end = instant(line["period_start"]), instant(line["period_end"])
    shown_from = max(now - span, start) if span_name == "this period" and start is not None else now - span
    series = [
        api().get(
            f"/v1/customers/{customer['customer_id']}/usage", meter=meter, step=step, **{"from": utc_text(shown_from)}
        )
        for meter in line["meters"]
    ]
    points = sorted((point for each in series for point in each["points"]), key=lambda point: point["at"])
    whole = span_name == "this period"
    burn = customer["burn_per_hour"]
    per_hour = burn["quantity"] if burn is not None and burn["meter"] == " + ".join(line["meters"]) else None
    figure = burn_chart(
        points,
        unit=line["unit"],
        now=now,
        cap=line["cap"] if whole else None,
        period_start=start if whole else None,
        period_end=end if whole else None,
        per_hour=per_hour if whole and customer["state"] in ("ok", "throttled") else None,
        customer_id=f"{customer['customer_id']}{chosen}{span_name}",
    )
    if not points:
        st.caption("No use in this range yet.")
    st.plotly_chart(figure, config=CONFIG, key="burn", alt=f"Use of {chosen} against its cap")
    runs_out = instant(customer["exhausts_at"])
    st.caption(
        f"Resets {within(end, now)}, {utc(end)}. "
        + (
            f"At the present burn it runs out {within(runs_out, now)}."
            if runs_out
            else "At the present burn it does not run out before that."
            if burn is not None
            else "The present burn is not known yet."
        )
    )


def utc_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _limits(customer: dict[str, Any]) -> None:
    st.subheader("Limits in force")
    lines = customer["limits"]
    if not lines:
        st.info("The plan has no limits.")
        return
    st.dataframe(
        {
            "Limit": [line["id"] + (" (shadow)" if line["mode"] == "shadow" else "") for line in lines],
            "Kind": [line["kind"].replace("_", " ") for line in lines],
            "Allows": [_allows(line) for line in lines],
            "Used": [_used(line) for line in lines],
            "Left": [
                exact(line["remaining"], line["unit"]) if line["remaining"] is not None else "–" for line in lines
            ],
            "Resets": [within(instant(line["period_end"])) if line["period_end"] else "–" for line in lines],
        },
        hide_index=True,
        alt="Limits in force with what is left of each",
    )


def _allows(line: dict[str, Any]) -> str:
    if line["kind"] == "rate":
        return f"{line['period']}, at once {exact(line['limit'], line['unit'])}"
    if line["kind"] == "per_event":
        return f"{exact(line['limit'], line['unit'])} in one event" + (f" ({line['field']})" if line["field"] else "")
    if line["kind"] == "credits":
        return f"{exact(line['limit'], line['unit'])} granted"
    if line["kind"] == "concurrency":
        return f"{exact(line['limit'], line['unit'])} open at once"
    billed = " included, then billed" if line["limit"] is None else ""
    return f"{exact(line['cap'], line['unit'])}{billed} per {line['period']}"


def _used(line: dict[str, Any]) -> str:
    if line["kind"] in ("rate", "per_event"):
        return "–"
    if line["kind"] == "concurrency":
        return f"{line['reserved']:,} open"
    used = line["used"] + line["external"]
    limit = line["limit"] if line["limit"] is not None else line["cap"]
    held = f", {exact(line['reserved'], line['unit'])} reserved" if line["reserved"] else ""
    return f"{exact(used, line['unit'])} ({percent(used, limit)}){held}"


def _provenance(customer: dict[str, Any]) -> None:
    rows = customer["provenance"]
    with st.expander("Where the numbers come from, and how old they are"):
        st.dataframe(
            {
                "Number": [row["number"] for row in rows],
                "From": [row["source"] for row in rows],
                "Version": [row["version"] or "–" for row in rows],
                "As of": [ago(instant(row["as_of"])) for row in rows],
            },
            hide_index=True,
            alt="Source, version and age of each number on this page",
        )


def _overrides(customer: dict[str, Any]) -> None:
    st.subheader("Overrides")
    if not customer["overrides"]:
        st.caption("None is in force. “Override…” above lets this customer pass, or stops it, until a time you choose.")
    for override in customer["overrides"]:
        with st.container(border=True):
            what = (
                f"⚑ Let pass: {override['units_used']:,} of {override['max_units']:,} units used"
                if override["kind"] == "let_pass"
                else "⚑ Stop, whatever is asked"
            )
            st.markdown(f"**{what}** · ends {within(instant(override['expires_at']))}")
            st.caption(
                f"{override['created_by']}, {ago(instant(override['created_at']))}: {override['reason']} · paid by {override['paid_by']}"
            )
            revoke_button(override)


def _flags(customer: dict[str, Any]) -> None:
    st.subheader("Flags")
    flags = customer["flags"]
    shown = [key for key in flags if key not in ("billing.policy", "billing.models")]
    st.dataframe(
        {
            "Flag": shown,
            "Value": [
                str(flags[key]["value"]).lower()
                if isinstance(flags[key]["value"], bool)
                else f"{flags[key]['value']:,}"
                if isinstance(flags[key]["value"], int)
                else str(flags[key]["value"])
                for key in shown
            ],
        },
        hide_index=True,
        alt="Feature flags of this customer",
    )


def _decisions(customer_id: str) -> None:
    st.subheader("Last decisions")
    rows = api().get("/v1/decisions", customer_id=customer_id, limit=20)["items"]
    if not rows:
        st.caption("No decision yet.")
        return
    picked = st.dataframe(
        {
            "When": [ago(instant(row["at"])) for row in rows],
            "Decision": [shown(row) for row in rows],
            "Why": [row["message"] for row in rows],
            "Quantity": [reservations.quantities_text(row["quantities"]) for row in rows],
            "Limit": [row["limit_id"] or "" for row in rows],
            "Id": [row["decision_id"] for row in rows],
        },
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="customer_decisions",
        alt="The customer's last decisions",
    )
    selected = picked["selection"]["rows"]
    if selected:
        st.switch_page(st.session_state["pages"]["Trace"], query_params={"id": rows[selected[0]]["decision_id"]})
