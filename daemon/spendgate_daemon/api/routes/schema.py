"""The API described by OpenAPI: what litestar knows of its routes, and the decision path beside it."""

from __future__ import annotations

from typing import Any

from litestar import Request, get

from spendgate_daemon.api.openapi import with_decision_path
from spendgate_daemon.api.services import Services


def handlers(_services: Services) -> list[Any]:
    @get(["/schema", "/schema/openapi.json"], opt={"scope": "", "bound": True}, include_in_schema=False)
    async def schema(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return with_decision_path(request.app.openapi_schema.to_schema())

    return [schema]
