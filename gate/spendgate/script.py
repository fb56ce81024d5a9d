"""The Lua scripts: each is the prelude, the modules and its own body.

Redis 7 and later keep them as the functions of one library: what they have made once they use again, which spares a
decision a third of its time. Elsewhere each is a script that Redis runs from its first line, named by its SHA-1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Final

import msgspec

LIMIT_KINDS: Final = ("quota", "credits", "rate", "concurrency", "per_event")
"""Lua twins in limits/, one a kind."""

MODULES: Final = ("customer", "events", "limits", "memory", "periods", "standing")
"""What nearly every script uses, in scripts/. A module's name is its file's."""

SELDOM: Final = ("denials", "duplicates", "finish", "grants", "kept", "overrides", "per", "reservations", "states")
"""What few decisions need, in scripts/. Where Redis makes a script's functions anew at every run, these cost the others one
function in all."""

NAMES: Final = (
    *("decide", "finish_reservation", "reserved", "snapshot", "put_state", "put_overrides", "put_external", "refresh"),
    *("sweep", "repair_reserved", "settle", "correct", "hold_slot", "repair_used", "trim", "new_epoch", "restore"),
)
"""The scripts, in scripts/. Each file gives the function that is its body."""

READS: Final = ("reserved", "snapshot")
"""Scripts that never write, so that a Redis that is full still answers them."""

LIBRARY_PREFIX: Final = "spendgate_"


class Library(msgspec.Struct, frozen=True):
    """All scripts as functions. The name has a digest of the source in it: versions live side by side."""

    name: str
    source: str


class Script(msgspec.Struct, frozen=True):
    """`sha` is what EVALSHA calls it. `function` is what FCALL calls it, in its `library`; None: it is in none."""

    name: str
    source: str
    sha: str
    function: str | None = None
    library: Library | None = None


def load_scripts(alter: Callable[[str], str] = str) -> dict[str, Script]:
    """Read and join the parts of all scripts, by name. `alter` changes the text of each part, for tests."""
    package = files("spendgate")

    def read(path: str) -> str:
        return alter(package.joinpath(path).read_text(encoding="utf-8"))

    def table(paths: Iterable[tuple[str, str]]) -> str:
        makers = "".join(f"{module} = {_function(read(f'{folder}/{module}.lua'))},\n" for folder, module in paths)
        return f"{{\n{makers}}}"

    modules = table([*(("limits", kind) for kind in LIMIT_KINDS), *(("scripts", module) for module in MODULES)])
    seldom = table(("scripts", module) for module in SELDOM)
    parts = (read("scripts/prelude.lua"), f"modules = {modules}", f"seldom = function() return {seldom} end")
    bodies = {name: read(f"scripts/{name}.lua") for name in NAMES}
    common = "\n".join(parts)
    library = _library_of(common, bodies)
    return {name: _script_of(name, common, body, library) for name, body in bodies.items()}


def script_of(name: str, source: str) -> Script:
    """A script that is in no library."""
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _script_of(name: str, common: str, body: str, library: Library) -> Script:
    alone = script_of(name, f"local LASTING = false\n{common}\nreturn answer(({_function(body)})())\n")
    return msgspec.structs.replace(alone, function=f"{library.name}_{name}", library=library)


def _library_of(common: str, bodies: Mapping[str, str]) -> Library:
    """A body is made at its first run: while a library is loaded, Redis lets it call nothing."""
    makers = "".join(f"{name} = {_function(body)},\n" for name, body in bodies.items())
    code = f"local LASTING, KEYS, ARGV = true, nil, nil\n{common}\nlocal makers, bodies = {{\n{makers}}}, {{}}\n"
    name = f"{LIBRARY_PREFIX}{hashlib.sha1(code.encode(), usedforsecurity=False).hexdigest()[:12]}"
    flags = {script: "'no-writes'" if script in READS else "" for script in bodies}
    registered = "".join(f"register('{script}', {{{flags[script]}}})\n" for script in bodies)
    return Library(name, f"#!lua name={name}\n{code}{_REGISTER.replace('LIBRARY', name)}{registered}")


def _function(text: str) -> str:
    return f"function()\n{text}end"


_REGISTER: Final = """\
local function register(name, flags)
  local function run(keys, arguments)
    KEYS, ARGV = keys, arguments
    bodies[name] = bodies[name] or makers[name]()
    return answer(bodies[name])
  end
  redis.register_function{ function_name = 'LIBRARY_' .. name, callback = run, flags = flags }
end
"""

_SCRIPTS: Final = load_scripts()

DECIDE: Final = _SCRIPTS["decide"]
FINISH_RESERVATION: Final = _SCRIPTS["finish_reservation"]
RESERVED: Final = _SCRIPTS["reserved"]
SNAPSHOT: Final = _SCRIPTS["snapshot"]
PUT_STATE: Final = _SCRIPTS["put_state"]
PUT_OVERRIDES: Final = _SCRIPTS["put_overrides"]
PUT_EXTERNAL: Final = _SCRIPTS["put_external"]
REFRESH: Final = _SCRIPTS["refresh"]
SWEEP: Final = _SCRIPTS["sweep"]
REPAIR_RESERVED: Final = _SCRIPTS["repair_reserved"]
SETTLE: Final = _SCRIPTS["settle"]
CORRECT: Final = _SCRIPTS["correct"]
HOLD_SLOT: Final = _SCRIPTS["hold_slot"]
REPAIR_USED: Final = _SCRIPTS["repair_used"]
TRIM: Final = _SCRIPTS["trim"]
NEW_EPOCH: Final = _SCRIPTS["new_epoch"]
RESTORE: Final = _SCRIPTS["restore"]
