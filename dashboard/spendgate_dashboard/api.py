"""The HTTP API as the pages use it: one connection pool, short timeouts, errors that say which call failed."""

from __future__ import annotations

import os
import time
from typing import Any, Final

import httpx

TIMEOUT_SECONDS: Final = 3.0
CACHE_SECONDS: Final = 1.5
CACHED: Final = 100

_http = httpx.Client(timeout=TIMEOUT_SECONDS)


class ApiDown(Exception):
    """The API did not answer, or not in time."""


class ApiRefused(Exception):
    """The API said no: `status`, `detail` for people, and the `field` at fault if there is one."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field


class Api:
    """Calls with one key (None: none). An instance belongs to one browser session: its cache is nobody else's."""

    def __init__(self, key: str | None) -> None:
        self._base = os.environ.get("SPENDGATE_API_URL", "http://127.0.0.1:8700").rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._cache: dict[str, tuple[float, Any]] = {}

    def get(self, path: str, **query: str | int | None) -> Any:
        """JSON of a read, at most CACHE_SECONDS old. Raises ApiDown and ApiRefused."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        name = f"{path}?{sorted(given.items())}"
        cached = self._cache.get(name)
        if cached is not None and time.monotonic() - cached[0] < CACHE_SECONDS:
            return cached[1]
        value = self._request("GET", path, params=given)
        if len(self._cache) >= CACHED:
            self._cache.clear()
        self._cache[name] = (time.monotonic(), value)
        return value

    def post(self, path: str, body: dict[str, Any], *, idempotency_key: str | None = None) -> Any:
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        self._cache.clear()
        return self._request("POST", path, json=body, headers=headers)

    def delete(self, path: str, body: dict[str, Any]) -> Any:
        self._cache.clear()
        return self._request("DELETE", path, json=body)

    def _request(self, method: str, path: str, headers: dict[str, str] | None = None, **given: Any) -> Any:
        try:
            response = _http.request(method, self._base + path, headers=self._headers | (headers or {}), **given)
        except httpx.HTTPError as exc:
            raise ApiDown(f"{method} {path}: {type(exc).__name__}") from exc
        if response.is_success:
            return response.json()
        try:
            problem = response.json()
        except ValueError:
            problem = {}
        if response.status_code >= 500:
            raise ApiDown(f"{method} {path}: {response.status_code} {problem.get('detail', '')}".strip())
        raise ApiRefused(response.status_code, problem.get("detail", response.reason_phrase), problem.get("field"))
