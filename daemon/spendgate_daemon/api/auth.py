"""Who calls: API keys, looked up by id, compared by hash in constant time, cached for a moment."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import msgspec
from litestar import Request

from spendgate_daemon.api.problems import forbidden, unauthorized
from spendgate_daemon.store.keys import Key, Keys, sha256_hex

SCOPES: Final = ("decide", "usage", "read", "flags", "override", "admin", "audit")
CACHE_SECONDS: Final = 3
"""A revoked key works at most this long."""

CACHED_KEYS: Final = 10_000

_KEY = re.compile(r"Bearer sg_([0-9a-f]{1,32})_([A-Za-z0-9_-]{1,128})")


class Principal(msgspec.Struct, frozen=True):
    """The one who acts. `customer_id` set: bound to that customer, whatever a request says."""

    key_id: str
    name: str
    scopes: frozenset[str]
    customer_id: str | None

    def require(self, scope: str) -> None:
        """Raise the 403 problem unless the key has the scope; `admin` has them all."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise forbidden(f"this needs the scope {scope!r}; the key has {', '.join(sorted(self.scopes)) or 'none'}")


class Authenticator:
    def __init__(self, keys: Keys, now_us: Callable[[], int]) -> None:
        self._keys = keys
        self._now_us = now_us
        self._cache: OrderedDict[str, tuple[int, Key]] = OrderedDict()

    async def authenticate(self, authorization: str | None) -> Principal:
        """Raises the 401 problem, which never says what exactly was wrong with a key."""
        if not authorization:
            raise unauthorized("send the header `Authorization: Bearer sg_...`")
        match = _KEY.fullmatch(authorization)
        key = await self._lookup(match[1]) if match is not None else None
        given = sha256_hex(match[2]) if match is not None else ""
        if key is None or not hmac.compare_digest(given, key.secret_sha256) or not key.valid_at(self._now_us()):
            raise unauthorized("the API key is unknown, expired or revoked")
        return Principal(key.id, key.principal, key.scopes, key.customer_id)

    async def _lookup(self, key_id: str) -> Key | None:
        now_us = self._now_us()
        cached = self._cache.get(key_id)
        if cached is not None and now_us - cached[0] < CACHE_SECONDS * 1_000_000:
            return cached[1]
        key = await asyncio.to_thread(self._keys.get, key_id)
        if key is None:
            return None
        self._cache[key_id] = (now_us, key)
        self._cache.move_to_end(key_id)
        while len(self._cache) > CACHED_KEYS:
            self._cache.popitem(last=False)
        return key


def principal_of(request: Request[Any, Any, Any]) -> Principal:
    """Who calls; the guard put it there before the handler ran."""
    principal: Principal = request.state.principal
    return principal
