"""The API described by OpenAPI, for any key: whoever may call may know how."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from litestar import Response, get

from spendgate_daemon.api.openapi.document import openapi_document


def handlers() -> list[Any]:
    @get(["/schema", "/schema/openapi.json"], opt={"scope": "", "bound": True}, sync_to_thread=False)
    def schema() -> Response[bytes]:
        return Response(_encoded(), media_type="application/json")

    return [schema]


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(openapi_document())
