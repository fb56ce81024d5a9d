"""Overrides with who, why and until when. Redis holds only what the script needs of the active ones."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import sqlalchemy as sa

from spendgate_daemon.store.database import Database
from spendgate_daemon.store.guardrail_events import GuardrailEvent, GuardrailEvents
from spendgate_daemon.store.schema import overrides


class StoredOverride(msgspec.Struct, frozen=True, kw_only=True):
    """`request_key` makes creation idempotent; `ended` is set once its end was told as a guardrail event. The
    position is the version that Redis compares."""

    id: str
    request_key: str | None
    customer_id: str
    kind: str
    max_units: int
    bypass: tuple[str, ...]
    reason: str
    paid_by: str
    created_by: str
    created_at_us: int
    expires_at_us: int
    revoked_by: str | None = None
    revoked_at_us: int | None = None
    revoke_reason: str | None = None
    ended: bool = False
    position: int = 0

    def active_at(self, now_us: int) -> bool:
        return self.revoked_at_us is None and now_us < self.expires_at_us


class Overrides:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = GuardrailEvents(database)

    def create(self, override: StoredOverride, event: GuardrailEvent) -> StoredOverride:
        """Store an override and its event in one transaction. With a `request_key` seen before, the override made then
        is returned and nothing is written."""
        row = {name: getattr(override, name) for name in override.__struct_fields__ if name != "position"}
        row["bypass"] = json.dumps(override.bypass)
        with self._database.writing() as connection:
            if override.request_key is not None:
                query = sa.select(overrides).where(overrides.c.request_key == override.request_key)
                found = connection.execute(query).first()
                if found is not None:
                    return _override(found)
            connection.execute(overrides.insert().values(row))
            self._events.insert(connection, [event])
            stored = connection.execute(sa.select(overrides).where(overrides.c.id == override.id)).one()
            return _override(stored)

    def revoke(self, override_id: str, by: str, reason: str | None, at_us: int, event: GuardrailEvent) -> bool:
        """False when it was not active any more; then nothing is written."""
        with self._database.writing() as connection:
            done = connection.execute(
                overrides.update()
                .where(overrides.c.id == override_id, overrides.c.revoked_at_us.is_(None))
                .where(overrides.c.expires_at_us > at_us)
                .values(revoked_by=by, revoked_at_us=at_us, revoke_reason=reason, ended=True)
            )
            if not done.rowcount:
                return False
            self._events.insert(connection, [event])
            return True

    def end(self, override_id: str, event: GuardrailEvent) -> bool:
        """Note that an expired override's end was told; False when somebody told it before."""
        with self._database.writing() as connection:
            done = connection.execute(
                overrides.update().where(overrides.c.id == override_id, overrides.c.ended.is_(False)).values(ended=True)
            )
            if not done.rowcount:
                return False
            self._events.insert(connection, [event])
            return True

    def get(self, override_id: str) -> StoredOverride | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(overrides).where(overrides.c.id == override_id)).first()
        return _override(row) if row is not None else None

    def of_customer(self, customer_id: str, *, active_at_us: int | None = None) -> list[StoredOverride]:
        """Newest first; with `active_at_us` only those in force then."""
        return self.page(customer_id=customer_id, active_at_us=active_at_us, limit=1000)

    def page(
        self, *, customer_id: str | None = None, active_at_us: int | None = None, limit: int = 200
    ) -> list[StoredOverride]:
        query = sa.select(overrides).order_by(overrides.c.position.desc()).limit(limit)
        if customer_id is not None:
            query = query.where(overrides.c.customer_id == customer_id)
        if active_at_us is not None:
            query = query.where(overrides.c.revoked_at_us.is_(None), overrides.c.expires_at_us > active_at_us)
        with self._database.reading() as connection:
            return [_override(row) for row in connection.execute(query)]

    def in_force(self, customer_id: str, now_us: int) -> tuple[list[StoredOverride], int]:
        """Those in force, oldest first, and a version that grows with every change of any of them."""
        query = sa.select(overrides).where(overrides.c.customer_id == customer_id).order_by(overrides.c.position)
        with self._database.reading() as connection:
            rows = [_override(row) for row in connection.execute(query)]
        changes = sum(1 + (row.revoked_at_us is not None) + row.ended for row in rows)
        return [row for row in rows if row.active_at(now_us)], changes

    def expired_untold(self, now_us: int) -> list[StoredOverride]:
        """Those whose time is over and whose end was not told yet."""
        query = sa.select(overrides).where(overrides.c.ended.is_(False), overrides.c.expires_at_us <= now_us).limit(500)
        with self._database.reading() as connection:
            return [_override(row) for row in connection.execute(query)]


def _override(row: Any) -> StoredOverride:
    fields = {name: getattr(row, name) for name in StoredOverride.__struct_fields__}
    return StoredOverride(**fields | {"bypass": tuple(json.loads(row.bypass))})
