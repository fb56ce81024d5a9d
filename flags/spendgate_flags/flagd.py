"""A flag definition for flagd (https://flagd.dev/reference/flag-definitions/): plan tables and the stopped customers.

flagd has no state per customer, so only what is small goes there: who is stopped now, and what each plan allows. Numbers
that change with every run belong in the provider or in OFREP.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from spendgate.policy import EffectivePolicy
from spendgate_flags.derive import HARD_STOP

PLAN_TABLE: Final = "billing.plan-table"
MAX_DEFINITION_BYTES: Final = 4 * 1024 * 1024
SCHEMA: Final = "https://flagd.dev/schema/v0/flags.json"


class DefinitionTooLarge(Exception):
    """flagd's clients fail unclearly above 4 MB; so many stopped customers belong in the provider or in OFREP."""


def definition_of(stopped: Iterable[str], plans: Mapping[str, EffectivePolicy], version: str) -> bytes:
    """JSON of the definition. `billing.hard-stop` is targeted by `targetingKey`, `billing.plan-table` by the context
    attribute `plan`. Raises DefinitionTooLarge."""
    ids = sorted(stopped)
    tables = {plan: _table(policy) for plan, policy in sorted(plans.items())}
    flags = {
        HARD_STOP: {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            # A rule on both sides: a value per customer must never be STATIC, which clients cache for everybody.
            "targeting": {"if": [{"in": [{"var": "targetingKey"}, ids]}, "on", "off"]},
        },
        PLAN_TABLE: {
            "state": "ENABLED",
            "variants": {"none": {}} | tables,
            "defaultVariant": "none",
            "targeting": {"if": [{"in": [{"var": "plan"}, sorted(tables)]}, {"var": "plan"}, "none"]},
        },
    }
    metadata = {"flagSetId": "spendgate", "version": version}
    body = msgspec.json.encode({"$schema": SCHEMA, "flags": flags, "metadata": metadata}, order="deterministic")
    if len(body) > MAX_DEFINITION_BYTES:
        raise DefinitionTooLarge(
            f"{len(ids)} stopped customers make a definition of {len(body)} bytes; flagd takes {MAX_DEFINITION_BYTES}"
        )
    return body


def etag_of(definition: bytes) -> str:
    return f'"{hashlib.sha256(definition).hexdigest()[:32]}"'


def write_definition(path: Path, definition: bytes) -> bool:
    """Replace the file in one step when it differs; flagd never reads half of it. Returns whether it was written."""
    try:
        if path.read_bytes() == definition:
            return False
    except FileNotFoundError:
        pass
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(definition)
        file.flush()
        os.fsync(file.fileno())
    Path(name).chmod(0o644)
    Path(name).replace(path)
    return True


def _table(policy: EffectivePolicy) -> dict[str, Any]:
    limits = {}
    for limit in policy.limits:
        number = getattr(limit, "cap", None) or getattr(limit, "burst", None) or getattr(limit, "max", None)
        if number is not None:
            limits[limit.id] = number
    return {"models": list(policy.models) if policy.models is not None else ["*"], "limits": limits}
