"""`streamlit run dashboard/app.py`; the API is found at SPENDGATE_API_URL."""

from __future__ import annotations

import streamlit as st

from spendgate_dashboard.site import MAIN, ROUTES

app = st.App(MAIN, routes=ROUTES)
