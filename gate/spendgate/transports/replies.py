"""What an error reply means for the event: certainly not executed, or unknown.

A reply that refuses the command before it runs is GateUnavailable, executed "no". So is an error that a script met at
its first write: Redis checks memory, role and disk before a script's first write and not again after it. Any other
error inside of a script is ScriptFailed, because what it wrote before stands.
"""

from __future__ import annotations

import re
from typing import Final

import hiredis

from spendgate.errors import GateUnavailable, ScriptFailed, SpendgateError

NOT_EXECUTED: Final = frozenset(
    {
        *("BUSY", "OOM", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "TRYAGAIN"),
        *("NOAUTH", "WRONGPASS", "NOPERM", "MOVED", "ASK", "CROSSSLOT", "NOSCRIPT"),
    }
)
_AT_FIRST_WRITE: Final = frozenset({"OOM", "READONLY", "NOREPLICAS", "MISCONF"})
_TOO_MANY_CLIENTS: Final = "ERR max number of clients"

_RAISED_IN_SCRIPT: Final = re.compile(
    r"ERR Error running script \(call to \w+\): @user_script:\s*\d+: (?:@user_script:\s*\d+: )?-?(?P<before_7>\w+)"
    r"|(?P<since_7>\w+) .* script: \w+, on @user_(?:script|function):\d+",
    re.DOTALL,
)


def code_of(reply: hiredis.ReplyError) -> str:
    """The first word: NOSCRIPT, MOVED, ERR, ..."""
    return str(reply).partition(" ")[0]


def error_of(reply: hiredis.ReplyError, what: str, where: object) -> SpendgateError:
    """The error to raise for a reply; `what` was asked of the Redis at `where`."""
    text = str(reply)
    raised = _RAISED_IN_SCRIPT.match(text)
    if raised:
        refused = (raised["since_7"] or raised["before_7"]) in _AT_FIRST_WRITE
    else:
        refused = code_of(reply) in NOT_EXECUTED or text.startswith(_TOO_MANY_CLIENTS)
    if refused:
        return GateUnavailable(f"Redis at {where} refused {what}: {text}", "no")
    return ScriptFailed(f"Redis at {where} failed to run {what}: {text}")
