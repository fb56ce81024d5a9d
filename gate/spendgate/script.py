"""The Lua scripts: each is the shared parts followed by its own body, named by its SHA-1 as EVALSHA wants it."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import msgspec

LIMIT_KINDS: Final = ("quota", "credits", "rate", "concurrency", "per_event")
"""Lua twins in limits/, one a kind."""


class Script(msgspec.Struct, frozen=True):
    name: str
    source: str

    @property
    def sha(self) -> str:
        """What Redis calls it."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def load_script(name: str) -> Script:
    """Read and join the parts of one script of this package."""
    package = files("spendgate")
    parts = ["scripts/prelude.lua", *(f"limits/{kind}.lua" for kind in LIMIT_KINDS), "scripts/customer.lua"]
    sources = [package.joinpath(part).read_text(encoding="utf-8") for part in (*parts, f"scripts/{name}.lua")]
    return Script(name, "\n".join(sources))


DECIDE: Final = load_script("decide")
SNAPSHOT: Final = load_script("snapshot")
PUT_STATE: Final = load_script("put_state")
PUT_OVERRIDES: Final = load_script("put_overrides")
PUT_EXTERNAL: Final = load_script("put_external")
REFRESH: Final = load_script("refresh")
SWEEP: Final = load_script("sweep")
