"""Policy documents and effective policies: kept as long as a decision may cite them, which is for ever."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from spendgate.policy import EffectivePolicy, decode_policy
from spendgate_daemon.store.database import Database
from spendgate_daemon.store.schema import effective_policies, policy_documents


class Policies:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._decoded: dict[str, EffectivePolicy] = {}

    def save_effective(self, policies: Mapping[str, bytes]) -> None:
        """Digest to encoding. Content-addressed, so saving again changes nothing."""
        rows = [{"digest": digest, "encoded": encoded} for digest, encoded in policies.items()]
        if rows:
            with self._database.writing() as connection:
                self._database.upsert(connection, effective_policies, rows, keys=["digest"])

    def effective(self, digest: str) -> EffectivePolicy | None:
        """The policy of this digest; None when it was never saved."""
        if digest in self._decoded:
            return self._decoded[digest]
        with self._database.reading() as connection:
            query = sa.select(effective_policies.c.encoded).where(effective_policies.c.digest == digest)
            encoded = connection.execute(query).scalar()
        if encoded is None:
            return None
        if len(self._decoded) > 10_000:
            self._decoded.clear()
        policy = self._decoded[digest] = decode_policy(encoded)
        return policy

    def save_document(self, digest: str, text: str, loaded_at_us: int) -> None:
        """Keep a document's text. The newest loaded is the one in force."""
        row = {"digest": digest, "text": text, "loaded_at_us": loaded_at_us}
        with self._database.writing() as connection:
            self._database.upsert(connection, policy_documents, [row], keys=["digest"], update=["loaded_at_us"])

    def current_document(self) -> str | None:
        """Text of the document in force; None before the first one."""
        with self._database.reading() as connection:
            query = sa.select(policy_documents.c.text).order_by(policy_documents.c.loaded_at_us.desc()).limit(1)
            return connection.execute(query).scalar()
