"""Which installation the store belongs to, so that a Redis that lost everything isn't taken for a new one."""

from __future__ import annotations

import asyncio
from typing import Final

from spendgate.control import Control, Install
from spendgate.keys import PARTITIONS
from spendgate_daemon.relays.store_relay import CURSOR_PREFIX, place_of
from spendgate_daemon.store import Store

ID: Final = "install.id"
SECRET: Final = "install.secret"  # noqa: S105  (the name of a cursor)


async def prepare(control: Control, store: Store, outage_slots: int | None) -> Install:
    """Prepare Redis as the store's installation, and note it there. Raises NotPrepared when Redis is another one's."""
    known, last_epoch = await asyncio.to_thread(_known, store)
    install = await control.prepare(outage_slots, known, last_epoch)
    if known is None:
        noted = {ID: install.id, SECRET: install.secret.hex()}
        await asyncio.to_thread(store.cursors.put, noted)
    return install


def _known(store: Store) -> tuple[Install | None, int]:
    install_id, secret = store.cursors.get(ID), store.cursors.get(SECRET)
    epochs = [place_of(stream_id)[0] for stream_id in store.cursors.starting_with(CURSOR_PREFIX).values()]
    known = Install(install_id, PARTITIONS, bytes.fromhex(secret)) if install_id and secret else None
    return known, max(epochs, default=0)
