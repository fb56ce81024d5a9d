"""The gate's tests share one house: an installation with a customer."""

from __future__ import annotations

import pytest

from house import House, policy_of
from spendgate.testing import FakeSyncGate
from stage import RedisStage

NOBODY = policy_of(deny_unknown=True)


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    yield made
    made.close()


@pytest.fixture(params=["redis", "fake"])
def stage(request, redis_url):
    """A gate for threads in a time that the test sets: on a real Redis, and in memory."""
    made = RedisStage(redis_url, NOBODY) if request.param == "redis" else FakeSyncGate(NOBODY)
    yield made
    made.close()
