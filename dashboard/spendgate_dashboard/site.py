"""The web around the pages: signing in by a one-time link, and the cookie that keeps one signed in.

The link's token is exchanged for a session key, which goes into a cookie that scripts in the browser can't read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from spendgate_dashboard.api import Api, ApiDown, ApiRefused

MAIN: Final = Path(__file__).with_name("main.py")
COOKIE: Final = "spendgate_session"
COOKIE_SECONDS: Final = 12 * 3600


def sign_in(request: Request) -> Response:
    """`/signin?token=...`: works once."""
    token = request.query_params.get("token", "")
    try:
        session = Api(None).post("/v1/sessions", {"token": token})
    except ApiRefused as exc:
        return PlainTextResponse(f"Not signed in: {exc.detail}\nMake a new link with `spendgate sign-in`.\n", 403)
    except ApiDown as exc:
        return PlainTextResponse(f"Not signed in: {exc}\nTry the same link again when the API answers.\n", 503)
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        COOKIE,
        session["key"],
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    response.headers["cache-control"] = "no-store"
    response.headers["referrer-policy"] = "no-referrer"
    return response


def sign_out(_request: Request) -> Response:
    response = RedirectResponse("/", status_code=303)
    response.delete_cookie(COOKIE)
    return response


ROUTES: Final = [Route("/signin", sign_in), Route("/signout", sign_out)]
