"""Who calls: API keys, looked up by id, compared by hash in constant time, remembered for a moment."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
from litestar import Request
from sqlalchemy.exc import SQLAlchemyError

from spendgate_daemon.api.problems import forbidden, unauthorized, unavailable
from spendgate_daemon.store.keys import Key, Keys, sha256_hex

SCOPES: Final = ("decide", "usage", "read", "flags", "override", "admin", "audit")
FRESH_SECONDS: Final = 3
"""A revoked key works at most this long."""

OUTAGE_SECONDS: Final = 300
"""While the store does not answer, keys seen within this time keep working: decisions need Redis, not the store. A
revocation could not have been written then either."""

LOOKUP_SECONDS: Final = 2
REMEMBERED_KEYS: Final = 10_000
LOOKUPS_UNDER_WAY: Final = 1_000
"""Beyond, callers whose key is not remembered are told to come back: guessed keys must not queue up without end."""

_KEY = re.compile(r"(?i:bearer) +sg_([0-9a-f]{1,32})_([A-Za-z0-9_-]{1,128})")

_log = structlog.get_logger("spendgate.api.auth")


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
        self._remembered: OrderedDict[str, tuple[int, Key]] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[Key | None]] = {}
        self._failed_us = 0

    async def authenticate(self, authorization: str | None) -> Principal:
        """Raises the 401 problem, which never says what exactly was wrong with a key, and the 503 one."""
        if not authorization:
            raise unauthorized("send the header `Authorization: Bearer sg_...`")
        match = _KEY.fullmatch(authorization)
        key = await self._key(match[1]) if match is not None else None
        given = sha256_hex(match[2]) if match is not None else ""
        if key is None or not hmac.compare_digest(given, key.secret_sha256) or not key.valid_at(self._now_us()):
            raise unauthorized("the API key is unknown, expired or revoked")
        return Principal(key.id, key.principal, key.scopes, key.customer_id)

    async def _key(self, key_id: str) -> Key | None:
        now_us = self._now_us()
        read_us, remembered = self._remembered.get(key_id, (0, None))
        failing = 0 <= now_us - self._failed_us < FRESH_SECONDS * 1_000_000
        good_for_seconds = OUTAGE_SECONDS if failing else FRESH_SECONDS
        if remembered is not None and 0 <= now_us - read_us < good_for_seconds * 1_000_000:
            return remembered
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await asyncio.shield(self._lookup(key_id))
        except (SQLAlchemyError, TimeoutError) as exc:
            self._failed_us = now_us
            _log.error("keys can't be read", error=type(exc).__name__)
            if remembered is not None and 0 <= now_us - read_us < OUTAGE_SECONDS * 1_000_000:
                return remembered
            raise unavailable("The store") from exc

    def _lookup(self, key_id: str) -> asyncio.Task[Key | None]:
        """One read of a key at a time, whoever waits for it: a busy key would be read by all callers at once."""
        lookup = self._lookups.get(key_id)
        if lookup is None:
            if len(self._lookups) >= LOOKUPS_UNDER_WAY:
                raise unavailable("The store")
            lookup = self._lookups[key_id] = asyncio.create_task(self._read(key_id))
            lookup.add_done_callback(_seen)
        return lookup

    async def _read(self, key_id: str) -> Key | None:
        try:
            key = await asyncio.to_thread(self._keys.get, key_id)
        finally:
            self._lookups.pop(key_id, None)
        if key is None:
            self._remembered.pop(key_id, None)
            return None
        self._remembered[key_id] = (self._now_us(), key)
        self._remembered.move_to_end(key_id)
        while len(self._remembered) > REMEMBERED_KEYS:
            self._remembered.popitem(last=False)
        return key


def _seen(lookup: asyncio.Task[Key | None]) -> None:
    """A failure that nobody waited for any more was told to those who did."""
    if not lookup.cancelled():
        lookup.exception()


def principal_of(request: Request[Any, Any, Any]) -> Principal:
    """Who calls; the guard put it there before the handler ran."""
    principal: Principal = request.state.principal
    return principal
