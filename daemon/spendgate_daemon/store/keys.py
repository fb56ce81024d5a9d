"""API keys, sessions and one-time sign-in links. Only hashes are stored: 256 random bits need no slow hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import api_keys, sign_in_links


class Key(msgspec.Struct, frozen=True):
    """`customer_id` binds the key to one customer; `expires_at_us` None: until revoked."""

    id: str
    secret_sha256: str
    principal: str
    scopes: frozenset[str]
    customer_id: str | None
    created_at_us: int
    expires_at_us: int | None
    revoked_at_us: int | None

    def valid_at(self, now_us: int) -> bool:
        return self.revoked_at_us is None and (self.expires_at_us is None or now_us < self.expires_at_us)


class SignIn(msgspec.Struct, frozen=True):
    principal: str
    scopes: frozenset[str]


def sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        principal: str,
        scopes: Sequence[str],
        now_us: int,
        *,
        customer_id: str | None = None,
        expires_at_us: int | None = None,
    ) -> str:
        """Make a key and return it, `sg_<id>_<secret>`: the only time that anybody sees it."""
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            connection.execute(
                api_keys.insert().values(
                    id=key_id,
                    secret_sha256=sha256_hex(secret),
                    principal=principal,
                    scopes=" ".join(sorted(scopes)),
                    customer_id=customer_id,
                    created_at_us=now_us,
                    expires_at_us=expires_at_us,
                )
            )
        return f"sg_{key_id}_{secret}"

    def get(self, key_id: str) -> Key | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).first()
        return _key(row) if row is not None else None

    def all(self) -> list[Key]:
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at_us))]

    def revoke(self, key_id: str, at_us: int) -> bool:
        with self._database.writing() as connection:
            done = connection.execute(
                api_keys.update()
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at_us.is_(None))
                .values(revoked_at_us=at_us)
            )
            return bool(done.rowcount)

    def create_link(self, principal: str, scopes: Sequence[str], expires_at_us: int) -> str:
        """A one-time token for `POST /v1/sessions`."""
        token = secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            connection.execute(
                sign_in_links.insert().values(
                    token_sha256=sha256_hex(token),
                    principal=principal,
                    scopes=" ".join(sorted(scopes)),
                    expires_at_us=expires_at_us,
                )
            )
        return token

    def use_link(self, token: str, now_us: int) -> SignIn | None:
        """Consume a token; None when it is unknown, used or expired. Of two callers at once, one wins."""
        with self._database.writing() as connection:
            mine = sign_in_links.c.token_sha256 == sha256_hex(token)
            done = connection.execute(
                sign_in_links.update()
                .where(mine, sign_in_links.c.used_at_us.is_(None), sign_in_links.c.expires_at_us > now_us)
                .values(used_at_us=now_us)
            )
            if not done.rowcount:
                return None
            row = connection.execute(sa.select(sign_in_links).where(mine)).one()
        return SignIn(row.principal, frozenset(row.scopes.split()))


def _key(row: Any) -> Key:
    fields = {name: getattr(row, name) for name in Key.__struct_fields__}
    return Key(**fields | {"scopes": frozenset(row.scopes.split())})
