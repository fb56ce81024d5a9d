"""The definitions by engine version, so that a decision can be made again years after the engine that made it.

A change of any outcome for the same inputs is a new engine: raise ENGINE_VERSION, copy what the old one consists of to
`spendgate/engine_<n>/` before changing it, and add its line here. Nothing is ever removed from this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from spendgate.decide import Verdict, decide, refresh
from spendgate.errors import UnknownEngine
from spendgate.reservation import Finish, finish
from spendgate.state import Standing


class Engine(msgspec.Struct, frozen=True):
    """`decide`, `refresh` and `finish` with the signatures that they have today."""

    decide: Callable[..., Verdict]
    refresh: Callable[..., Standing]
    finish: Callable[..., Finish]


ENGINES: Final = {1: Engine(decide, refresh, finish)}


def engine_of(version: int) -> Engine:
    """Raises UnknownEngine for a version that this installation of the library does not have."""
    engine = ENGINES.get(version)
    if engine is None:
        raise UnknownEngine(version, tuple(ENGINES))
    return engine
