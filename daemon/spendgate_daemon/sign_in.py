"""A one-time link to the dashboard, made by the API for whoever holds an administrator's key."""

from __future__ import annotations

import httpx

from spendgate_daemon.settings import Settings, value_of

TIMEOUT_SECONDS = 10.0


class NoSignIn(Exception):
    """The API made no link, and says why."""


async def sign_in_link(settings: Settings, principal: str | None, *, admin: bool = False) -> str:
    """A link for `principal` (None: the key's owner), good once and for 15 minutes; `admin`: who follows it may do what an
    administrator may. Raises NoSignIn."""
    key = value_of(settings.admin_key)
    if key is None:
        raise NoSignIn(f"no admin key: set SPENDGATE_ADMIN_KEY (there is no keys.env in {settings.home})")
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with httpx.AsyncClient(base_url=settings.api, headers=headers, timeout=TIMEOUT_SECONDS) as http:
            body = {"admin": admin} | ({"principal": principal} if principal else {})
            response = await http.post("/v1/sign-in-links", json=body)
            response.raise_for_status()
            return f"{settings.dashboard}/signin?token={response.json()['token']}"
    except (httpx.HTTPError, KeyError, ValueError) as exc:
        raise NoSignIn(f"the API at {settings.api} made no sign-in link: {exc}") from exc
