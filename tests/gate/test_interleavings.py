"""Random interleavings of many clients, audited: a share of what `make soak` does, and proof that the audit can fail."""

from __future__ import annotations

import os

import pytest
from interleavings import Broken, Player, told_scripts
from mutants import MUTANTS

from redis_servers import SERVER_NAMES, find_redis_servers, start_redis, stop
from requirements import require

COUNT = int(os.environ.get("SPENDGATE_INTERLEAVINGS", "10000"))
MOST_FOR_A_MUTANT = 12_000
KEPT_SEEDS = (1513,)
"""Once broken. What a seed makes changes with the plans; what it found has a test of its own as well."""


@pytest.fixture
def play(redis_url):
    """Play seeds with scripts that a function has changed."""
    players = []

    def play(seeds, alter=str):
        players.append(Player(redis_url, told_scripts(alter)))
        players[-1].play(seeds)

    yield play
    for player in players:
        player.close()


@pytest.mark.timeout(600)
def test_no_interleaving_overspends_loses_or_counts_twice(play):
    play(KEPT_SEEDS)
    play(range(COUNT))


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_so_on_every_redis(name, tmp_path):
    servers = find_redis_servers()
    require(name, found=name in servers)
    process, url = start_redis(servers[name], tmp_path)
    player = Player(url, told_scripts())
    try:
        player.play(range(COUNT, COUNT + COUNT // 10))
    finally:
        player.close()
        stop(process)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_audit_notices_when(name, play):
    before, after = MUTANTS[name]
    changed = []

    def alter(source):
        changed.append(before in source)
        return source.replace(before, after)

    with pytest.raises(Broken):
        play(range(MOST_FOR_A_MUTANT), alter)
    assert any(changed)
