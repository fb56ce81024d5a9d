"""What every page has: who is signed in, the SANDBOX banner, errors that say which call failed and since when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from spendgate_dashboard.api import Api, ApiDown, ApiRefused
from spendgate_dashboard.formats import span
from spendgate_dashboard.site import COOKIE

Result = TypeVar("Result")


def api() -> Api:
    """This browser session's API client."""
    key = st.context.cookies.get(COOKIE)
    made = st.session_state.get("api")
    if made is None or st.session_state.get("api_key") != key:
        made = st.session_state["api"] = Api(key)
        st.session_state["api_key"] = key
    client: Api = made
    return client


def signed_in() -> bool:
    """Show how to sign in, unless one is."""
    if st.context.cookies.get(COOKIE):
        return True
    st.title("Spendgate")
    st.info("You are not signed in. Make a one-time link with this command and open it in this browser:")
    st.code("spendgate sign-in", language=None)
    return False


def live(body: Callable[[], None], *, title: str | None = None) -> None:
    """Run a page's live part; an API that does not answer gives an error instead of old numbers, under the given title if
    the body would have made its own."""
    try:
        body()
        st.session_state.pop("down_since", None)
    except ApiDown as exc:
        if title is not None:
            st.title(title)
        since = st.session_state.setdefault("down_since", time.time())
        st.error(
            f"The API does not answer ({exc}), for {span(max(1.0, time.time() - since))}. Trying again by itself.",
            icon="⚠️",
        )
    except ApiRefused as exc:
        if title is not None:
            st.title(title)
        if exc.status == 401:
            st.warning(f"Your session is over: {exc.detail}. Make a new link with `spendgate sign-in`.")
        elif exc.status == 404:
            st.warning(f"Not found: {exc.detail}.")
        else:
            st.error(f"The API refused: {exc.detail}", icon="⚠️")


def banner(summary: dict[str, Any]) -> None:
    """Says so when the numbers are the sandbox's."""
    if summary["sandbox"]:
        text = "SANDBOX · the billing data on this page is the embedded UsageBox's, not a real customer's"
        st.html(f'<div class="sg-banner" role="note">{text}</div>')
