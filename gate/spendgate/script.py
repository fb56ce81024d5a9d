"""The Lua scripts: each is the prelude, the modules and its own body, named by its SHA-1 as EVALSHA wants it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

import msgspec

LIMIT_KINDS: Final = ("quota", "credits", "rate", "concurrency", "per_event")
"""Lua twins in limits/, one a kind."""

MODULES: Final = ("customer", "events", "limits", "memory", "periods", "standing")
"""What nearly every script uses, in scripts/. A module's name is its file's."""

SELDOM: Final = ("denials", "duplicates", "finish", "grants", "kept", "overrides", "per", "reservations")
"""What few decisions need, in scripts/. Redis makes a script's functions anew at every run, so these cost the others one
function in all."""


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

    def table(paths: Iterable[tuple[str, str]]) -> str:
        makers = "".join(f"{module} = function()\n{read(f'{folder}/{module}.lua')}end,\n" for folder, module in paths)
        return f"{{\n{makers}}}"

    modules = table([*(("limits", kind) for kind in LIMIT_KINDS), *(("scripts", module) for module in MODULES)])
    seldom = table(("scripts", module) for module in SELDOM)
    parts = [
        read("scripts/prelude.lua"),
        f"modules = {modules}",
        f"seldom = function() return {seldom} end",
        read(f"scripts/{name}.lua"),
    ]
    return script_of(name, "\n".join(parts))


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
CORRECT: Final = load_script("correct")
HOLD_SLOT: Final = load_script("hold_slot")
REPAIR_USED: Final = load_script("repair_used")
TRIM: Final = load_script("trim")
NEW_EPOCH: Final = load_script("new_epoch")
RESTORE: Final = load_script("restore")
