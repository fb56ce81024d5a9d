"""Webhooks from UsageBox: no API key, the signature says who sends."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, post

from spendgate_daemon.api.problems import unauthorized
from spendgate_daemon.api.services import Services
from spendgate_daemon.mirror.webhooks import WebhookRefused


def handlers(services: Services) -> list[Any]:
    @post("/webhooks/usagebox", opt={"public": True})
    async def receive(request: Request[Any, Any, Any]) -> Response[None]:
        if services.webhooks is None:
            raise unauthorized("no webhook secret is configured")
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            await services.webhooks.accept(headers, await request.body())
        except WebhookRefused as exc:
            raise unauthorized(str(exc)) from exc
        return Response(None, status_code=204)

    return [receive]
