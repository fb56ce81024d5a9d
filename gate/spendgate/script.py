"""The Lua scripts: each is the prelude, the modules and its own body, named by its SHA-1 as EVALSHA wants it."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import msgspec

LIMIT_KINDS: Final = ("quota", "credits", "rate", "concurrency", "per_event")
"""Lua twins in limits/, one a kind."""

MODULES: Final = (
    "customer",
    "denials",
    "events",
    "finish",
    "kept",
    "limits",
    "memory",
    "overrides",
    "per",
    "periods",
    "reservations",
    "standing",
)
"""What several scripts share, in scripts/. A module's name is its file's."""


class Script(msgspec.Struct, frozen=True):
    """`sha` is what Redis calls it."""

    name: str
    source: str
    sha: str


def load_script(name: str) -> Script:
    """Read and join the parts of one script of this package."""
    package = files("spendgate")

    def read(path: str) -> str:
        return package.joinpath(path).read_text(encoding="utf-8")

    parts = [read("scripts/prelude.lua")]
    for folder, modules in (("limits", LIMIT_KINDS), ("scripts", MODULES)):
        parts += [f"modules.{module} = function()\n{read(f'{folder}/{module}.lua')}end\n" for module in modules]
    source = "\n".join([*parts, read(f"scripts/{name}.lua")])
    return script_of(name, source)


def script_of(name: str, source: str) -> Script:
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


DECIDE: Final = load_script("decide")
FINISH_RESERVATION: Final = load_script("finish_reservation")
RESERVED: Final = load_script("reserved")
SNAPSHOT: Final = load_script("snapshot")
PUT_STATE: Final = load_script("put_state")
PUT_OVERRIDES: Final = load_script("put_overrides")
PUT_EXTERNAL: Final = load_script("put_external")
REFRESH: Final = load_script("refresh")
SWEEP: Final = load_script("sweep")
REPAIR_RESERVED: Final = load_script("repair_reserved")
SETTLE: Final = load_script("settle")
HOLD_SLOT: Final = load_script("hold_slot")
