"""Tells a forked child from its parent: a connection that both use would mix up their replies."""

from __future__ import annotations

import os

_generation = 0


def generation() -> int:
    """A number that differs in a forked child. Cheaper than asking for the process id."""
    return _generation


def _forked() -> None:
    global _generation  # noqa: PLW0603
    _generation += 1


os.register_at_fork(after_in_child=_forked)
