"""Redis answers, but does not take the command: nothing was written, and the caller is told so."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import redis

from clusters import until
from redis_servers import find_redis_servers, start_redis, stop
from requirements import require
from spendgate import GateUnavailable, ScriptFailed
from transport_scripts import ECHO, FAIL, FOREVER, INCREMENT, SET, WRITE_THEN_FAIL


@pytest.fixture(params=find_redis_servers() or ["redis-server"], scope="module")
def own_server(request, tmp_path_factory) -> Iterator[str]:
    """URL of a server that a test may bring into any state; one of each version there is."""
    binary = find_redis_servers().get(request.param)
    require("a redis-server or valkey-server", found=binary is not None)
    process, url = start_redis(binary, tmp_path_factory.mktemp("own"), "--lua-time-limit", "20")
    yield url
    stop(process)


@pytest.fixture
def admin(own_server) -> Iterator[redis.Redis]:
    """A client of it, which leaves it as it was."""
    with redis.Redis.from_url(own_server) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxclients", 1000)
        client.config_set("min-replicas-to-write", 0)
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("NO", "ONE")
        client.flushall()


def refused(call, code: str) -> None:
    with pytest.raises(GateUnavailable, match=code) as caught:
        call()
    assert caught.value.executed == "no"


def test_an_unknown_script_after_a_flush_runs(drive, own_server, admin):
    driver = drive(own_server)
    assert driver.run(INCREMENT) == 1
    admin.script_flush()
    assert driver.run(INCREMENT) == 2
    assert driver.gather([(INCREMENT, "k", [])] * 3)
    assert admin.get("k") == b"5"


def test_out_of_memory(drive, own_server, admin):
    driver = drive(own_server)
    driver.run(SET, arguments=["x"])
    admin.config_set("maxmemory", 1)
    refused(lambda: driver.run(SET, arguments=["y"]), "OOM")
    admin.config_set("maxmemory", 0)
    assert admin.get("k") == b"x"
    assert driver.run(SET, arguments=["z"]) == 1


def test_a_replica_takes_no_writes(drive, own_server, admin):
    driver = drive(own_server)
    driver.run(SET, arguments=["x"])
    admin.replicaof("127.0.0.1", 1)
    refused(lambda: driver.run(SET, arguments=["y"]), "READONLY")
    assert driver.get("k") == b"x"
    admin.replicaof("NO", "ONE")
    assert driver.run(SET, arguments=["z"]) == 1


def test_a_replica_without_its_master(drive, own_server, admin):
    driver = drive(own_server)
    driver.run(SET, arguments=["x"])
    admin.config_set("replica-serve-stale-data", "no")
    admin.replicaof("127.0.0.1", 1)
    refused(lambda: driver.run(SET, arguments=["y"]), "MASTERDOWN")
    refused(lambda: driver.get("k"), "MASTERDOWN")


def test_too_few_replicas(drive, own_server, admin):
    driver = drive(own_server)
    admin.config_set("min-replicas-to-write", 1)
    refused(lambda: driver.run(SET, arguments=["y"]), "NOREPLICAS")
    admin.config_set("min-replicas-to-write", 0)
    assert driver.run(SET, arguments=["z"]) == 1


def test_too_many_clients(drive, own_server, admin):
    admin.ping()
    admin.config_set("maxclients", 1)
    refused(lambda: drive(own_server).run(ECHO), "max number of clients")


def test_a_busy_redis(drive, own_server, admin):
    """Another client's script does not end; then an administrator kills it."""
    driver = drive(own_server, 5)
    driver.run(ECHO)
    with busy(own_server, admin):
        refused(lambda: driver.run(ECHO), "BUSY")
        refused(lambda: drive(own_server, 5).run(ECHO), "BUSY")
    assert driver.run(ECHO, arguments=["x"]) == b"x"


@contextlib.contextmanager
def busy(url: str, admin: redis.Redis) -> Iterator[None]:
    def loop() -> None:
        with redis.Redis.from_url(url) as client, contextlib.suppress(redis.exceptions.ResponseError):
            client.eval(FOREVER.source, 0)

    def is_busy() -> bool:
        try:
            return not admin.ping()
        except redis.exceptions.ResponseError as exc:
            return "BUSY" in str(exc)

    looping = threading.Thread(target=loop)
    looping.start()
    until(is_busy)
    try:
        yield
    finally:
        admin.script_kill()
        looping.join(20)


@pytest.mark.parametrize(
    ("script", "text"), [(FAIL, "attempt to perform arithmetic"), (WRITE_THEN_FAIL, "WRONGTYPE")], ids=["lua", "type"]
)
def test_an_error_inside_of_a_script_is_not_a_refusal(drive, own_server, admin, script, text):
    driver = drive(own_server)
    with pytest.raises(ScriptFailed, match=text):
        driver.run(script)


def test_what_a_failed_script_wrote_stands(drive, own_server, admin):
    with pytest.raises(ScriptFailed):
        drive(own_server).run(WRITE_THEN_FAIL)
    assert admin.get("k") == b"1"


@pytest.mark.parametrize("user", ["", ":wr0ng-s3cret@", "nobody:wr0ng-s3cret@"], ids=["none", "password", "user"])
def test_wrong_credentials(drive, servers, user):
    url = servers.url("password")
    wrong = f"redis://{user}{url.rpartition('@')[2]}"
    refused(lambda: drive(wrong).run(ECHO), "NOAUTH|WRONGPASS")


def test_no_error_holds_a_password(drive, servers):
    """A server that does not know AUTH quotes its arguments."""
    process, url = start_redis(servers.binary(), servers.directory, "--rename-command", "AUTH", "")
    driver = drive(url.replace("redis://", "redis://name:s3cret@"))
    with pytest.raises(GateUnavailable, match="unknown command") as caught:
        driver.run(ECHO)
    stop(process)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__
