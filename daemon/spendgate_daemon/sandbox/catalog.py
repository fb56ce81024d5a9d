"""The catalog API, `/api/v1`, of the hosted service only: resources as they were put, in pages."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, patch, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.reading import read_json

REQUIRED: Final = {
    "products": ("name", "code"),
    "plans": ("name",),
    "meters": (),
    "customers": (),
    "subscriptions": ("customer_id", "plan_id", "starts_at"),
}
"""Resources, and what a new one must have."""

PAGE: Final = 1000
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def catalog_routes(book: Book) -> list[Any]:
    @get("/api/v1/{kind:str}", sync_to_thread=False)
    def listed(request: Request[Any, Any, Any], kind: FromPath[str]) -> dict[str, Any]:
        _check_kind(kind)
        after = request.query_params.get("cursor", "")
        rows = book.execute(
            "SELECT id, body FROM catalog WHERE kind = ? AND id > ? ORDER BY id LIMIT ?", (kind, after, PAGE + 1)
        )
        more = {"next_cursor": rows[PAGE - 1]["id"]} if len(rows) > PAGE else {}
        return {kind: [msgspec.json.decode(row["body"]) for row in rows[:PAGE]]} | more

    @post("/api/v1/usage", status_code=200)
    async def usage(request: Request[Any, Any, Any]) -> Response[str]:
        body = await read_json(request)
        if not isinstance(body, list) or not all(isinstance(item, dict) for item in body):
            raise HTTPException("expected a list of objects", status_code=422)
        return Response("Usage batch accepted", status_code=200, media_type="text/plain")

    @post("/api/v1/{kind:str}", status_code=201)
    async def create(request: Request[Any, Any, Any], kind: FromPath[str]) -> dict[str, Any]:
        _check_kind(kind)
        body = await read_json(request)
        missing = [name for name in REQUIRED[kind] if not isinstance(body, dict) or not isinstance(body.get(name), str)]
        if not isinstance(body, dict) or missing:
            raise HTTPException(f"expected an object with {', '.join(missing)}", status_code=422)
        _check_dates(body)
        made = body | {"id": str(body.get("code") or body.get("id") or secrets.token_hex(6))}
        text = msgspec.json.encode(made).decode()
        book.execute("INSERT OR REPLACE INTO catalog VALUES (?,?,?)", (kind, made["id"], text))
        return made

    # Not `/subscriptions/{id}`: the router would then look for the list among the fixed paths, too.
    @patch("/api/v1/{kind:str}/{item_id:str}")
    async def change(request: Request[Any, Any, Any], kind: FromPath[str], item_id: FromPath[str]) -> dict[str, Any]:
        body = await read_json(request)
        rows = book.execute("SELECT body FROM catalog WHERE kind = ? AND id = ?", (kind, item_id))
        if kind != "subscriptions" or not rows:
            raise HTTPException("no such subscription", status_code=404)
        if not isinstance(body, dict):
            raise HTTPException("expected an object", status_code=422)
        _check_dates(body)
        changed: dict[str, Any] = msgspec.json.decode(rows[0]["body"]) | body | {"id": item_id}
        text = msgspec.json.encode(changed).decode()
        book.execute("UPDATE catalog SET body = ? WHERE kind = ? AND id = ?", (text, kind, item_id))
        return changed

    return [listed, usage, create, change]


def _check_kind(kind: str) -> None:
    if kind not in REQUIRED:
        raise HTTPException("no such resource", status_code=404)


def _check_dates(body: dict[str, Any]) -> None:
    if "starts_at" in body and not _DATE.fullmatch(str(body["starts_at"])):
        raise HTTPException("starts_at must be YYYY-MM-DD", status_code=422)
