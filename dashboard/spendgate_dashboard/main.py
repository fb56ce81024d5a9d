"""The script that Streamlit runs: looks, sign-in, and the pages."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from spendgate_dashboard.frame import signed_in
from spendgate_dashboard.looks import CSS
from spendgate_dashboard.views import customer, events, overview, sync, trace

ICON = Path(__file__).with_name("static") / "icon.png"

st.set_page_config(page_title="Spendgate", layout="wide", page_icon=str(ICON))
st.html(CSS)
pages = [
    st.Page(overview.show, title="Overview", url_path="overview", default=True),
    st.Page(customer.show, title="Customer", url_path="customer"),
    st.Page(events.show, title="Events", url_path="events"),
    st.Page(trace.show, title="Trace", url_path="trace"),
    st.Page(sync.show, title="Sync", url_path="sync"),
]
st.session_state["pages"] = {page.title: page for page in pages}
page = st.navigation(pages, position="top")
if signed_in():
    page.run()
