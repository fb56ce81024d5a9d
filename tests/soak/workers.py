"""What each process of the soak does: it has a player, and plays the seeds that it is given."""

from __future__ import annotations

from multiprocessing.queues import SimpleQueue
from typing import Final

from interleavings import Broken, Player, told_scripts

_PLAYERS: Final[list[Player]] = []
"""The one of this process, once it is connected."""


def connect(urls: SimpleQueue[str]) -> None:
    _PLAYERS.append(Player(urls.get(), told_scripts()))


def play(seeds: range) -> tuple[int, str | None]:
    """How many were played, and what was broken."""
    try:
        _PLAYERS[0].play(seeds)
    except Broken as broken:
        return len(seeds), "\n".join(["INTERLEAVING BROKEN", str(broken), *broken.__notes__])
    return len(seeds), None
