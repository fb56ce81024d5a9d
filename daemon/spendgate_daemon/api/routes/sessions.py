"""Signing in: an administrator makes a one-time link, whoever follows it first gets a session key."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from litestar import Request, get, post

from spendgate.reasons import rfc3339
from spendgate_daemon.api.auth import principal_of
from spendgate_daemon.api.problems import invalid, unauthorized
from spendgate_daemon.api.reading import read_object, read_text
from spendgate_daemon.api.services import Services

LINK_SECONDS: Final = 15 * 60
SESSION_SECONDS: Final = 12 * 3600
SESSION_SCOPES: Final = ("read", "override")
MAX_PRINCIPAL: Final = 100


def handlers(services: Services) -> list[Any]:
    keys = services.store.keys

    @post("/v1/sign-in-links", opt={"scope": "admin"})
    async def create_link(request: Request[Any, Any, Any]) -> dict[str, Any]:
        body = await request.body()
        value = read_object(body, frozenset({"principal", "admin"}), "a principal") if body else {}
        principal = read_text("principal", value.get("principal", principal_of(request).name), 1, MAX_PRINCIPAL)
        if not principal.isprintable():
            raise invalid("principal", "printable text")
        admin = value.get("admin", False)
        if not isinstance(admin, bool):
            raise invalid("admin", "true or false")
        scopes = (*SESSION_SCOPES, "admin") if admin else SESSION_SCOPES
        expires_at_us = services.now_us() + LINK_SECONDS * 1_000_000
        token = await asyncio.to_thread(keys.create_link, principal, scopes, expires_at_us)
        return {"token": token, "expires_at": rfc3339(expires_at_us)}

    @post("/v1/sessions", opt={"public": True})
    async def create_session(request: Request[Any, Any, Any]) -> dict[str, Any]:
        value = read_object(await request.body(), frozenset({"token"}), "a token")
        token = value.get("token")
        if not isinstance(token, str) or not 1 <= len(token) <= 128:
            raise invalid("token", "the token of a sign-in link")
        now_us = services.now_us()
        signed_in = await asyncio.to_thread(keys.use_link, token.encode("utf-8", "replace").decode(), now_us)
        if signed_in is None:
            raise unauthorized("this link is unknown, was used before, or is older than 15 minutes")
        expires_at_us = now_us + SESSION_SECONDS * 1_000_000
        key = await asyncio.to_thread(
            lambda: keys.create(signed_in.principal, sorted(signed_in.scopes), now_us, expires_at_us=expires_at_us)
        )
        return {
            "key": key,
            "principal": signed_in.principal,
            "scopes": sorted(signed_in.scopes),
            "expires_at": rfc3339(expires_at_us),
        }

    @get("/v1/me", opt={"scope": "", "bound": True})
    async def me(request: Request[Any, Any, Any]) -> dict[str, Any]:
        principal = principal_of(request)
        return {
            "principal": principal.name,
            "scopes": sorted(principal.scopes),
            "customer_id": principal.customer_id,
        }

    return [create_link, create_session, me]
