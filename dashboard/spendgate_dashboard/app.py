"""The app that `python -m spendgate_dashboard` serves."""

from __future__ import annotations

import streamlit as st

from spendgate_dashboard.site import MAIN, ROUTES

app = st.App(MAIN, routes=ROUTES)
