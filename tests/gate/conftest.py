"""The gate's tests share one house: an installation with a customer."""

from __future__ import annotations

import pytest

from house import House


@pytest.fixture
def house(run, control, gate, redis_url):
    made = House(run, control, gate, redis_url)
    yield made
    made.close()
