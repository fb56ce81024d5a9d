"""Local API keys: made once, kept in `keys.env` for the owner's eyes, known to the store by hash only."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from spendgate_daemon.settings import variable_of
from spendgate_daemon.store import Store
from spendgate_daemon.store.keys import sha256_hex
from spendgate_daemon.up.home import Home, read_env

LOCAL_KEYS: Final = {
    "admin_key": ("local admin", ("admin",)),
    "decide_key": ("local application", ("decide", "usage")),
    "read_key": ("local reader", ("read",)),
    "flags_key": ("local flag client", ("flags",)),
}


def ensure_keys(home: Home, database_url: str, now_us: Callable[[], int]) -> dict[str, str]:
    """What `keys.env` holds: a key for each of LOCAL_KEYS and the home's secrets. Makes those that are missing or that
    the store doesn't know (any more), and writes the file when it made one. Migrates the store."""
    store = Store.open(database_url)
    try:
        return _ensure(home, store, now_us)
    finally:
        store.close()


def _ensure(home: Home, store: Store, now_us: Callable[[], int]) -> dict[str, str]:
    known = read_env(home.keys_env)
    keys = home.secrets()
    for name, (principal, scopes) in LOCAL_KEYS.items():
        variable = variable_of(name)
        kept = known.get(variable)
        keys[variable] = (
            kept if kept and _is_valid(store, kept, now_us()) else store.keys.create(principal, scopes, now_us())
        )
    if keys != known:
        home.write_env(home.keys_env, keys)
    return keys


def _is_valid(store: Store, key: str, now_us: int) -> bool:
    parts = key.split("_", 2)
    found = store.keys.get(parts[1]) if len(parts) == 3 else None
    return (
        found is not None and found.valid_at(now_us) and hmac.compare_digest(found.secret_sha256, sha256_hex(parts[2]))
    )
