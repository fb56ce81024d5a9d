"""Start checks and `doctor` against a real Redis that is set up wrong."""

from __future__ import annotations

import asyncio

import pytest
import redis

from spendgate.control import Control
from spendgate_daemon.doctor import examine
from spendgate_daemon.redis_checks import UnsafeRedis, refuse_eviction
from spendgate_daemon.settings import Settings


@pytest.fixture
def evicting(redis_url):
    """A Redis that deletes keys when memory is short."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield redis_url
        client.config_set("maxmemory-policy", "noeviction")


def test_a_redis_that_evicts_is_refused(evicting, run):
    control = Control.from_url(evicting)
    with pytest.raises(UnsafeRedis, match="allkeys-lru, which deletes balances"):
        run(refuse_eviction(control.redis, acknowledged=False))
    assert run(refuse_eviction(control.redis, acknowledged=True)).maxmemory_policy == "allkeys-lru"
    run(control.aclose())


def findings(**values) -> dict[tuple[str, str], str]:
    settings = Settings(**values)
    return {(each.part, each.grade): each.text for each in asyncio.run(examine(settings))}


def test_doctor_names_what_is_wrong(evicting, tmp_path):
    (tmp_path / "policy.yaml").write_text("plans: 7\n")
    found = findings(
        redis_url=evicting,
        database_url=f"sqlite:///{tmp_path / 'missing' / 'store.db'}",
        usagebox_url="http://127.0.0.1:9",
        policy_file=tmp_path / "policy.yaml",
    )
    assert "noeviction" in found["Redis", "fault"]
    assert "loses" in found["Redis", "warning"]
    assert "unable to open database file" in found["store", "fault"]
    assert "127.0.0.1:9" in found["UsageBox", "fault"]
    assert "policy.yaml" in found["policy", "fault"]


def test_doctor_is_content_with_a_fresh_installation(redis_url, control, tmp_path):
    found = findings(redis_url=redis_url, database_url=f"sqlite:///{tmp_path / 'store.db'}", api_port=0)
    assert not [text for (_, grade), text in found.items() if grade == "fault"]
    assert "64 partitions" in found["installation", "ok"]
    assert "SQLite, empty" in found["store", "warning"]


def test_doctor_says_when_redis_does_not_answer(tmp_path):
    found = findings(redis_url="redis://:secret@127.0.0.1:9/0", database_url=f"sqlite:///{tmp_path / 's.db'}")
    assert "does not answer" in found["Redis", "fault"]
    assert "secret" not in found["Redis", "fault"]
