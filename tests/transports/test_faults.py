"""Faults between a transport and Redis: what a caller is told, that it is told in time, and that nothing runs twice."""

from __future__ import annotations

import random
import socket
import time
import uuid
from collections.abc import Iterator

import pytest

from clusters import until
from proxy import Proxy, proxied
from redis_servers import free_port, start_redis, stop
from spendgate import GateUnavailable
from spendgate.script import script_of
from spendgate.transports.threaded.connection import IDLE_SECONDS
from transport_scripts import ECHO, INCREMENT, MANY, SIZE

TIMEOUT_SECONDS = 0.3
LATE_SECONDS = 0.25
"""How much later than its deadline an answer may come on a busy machine."""


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with proxied(server.connection_pool.connection_kwargs["port"]) as made:
        yield made


@pytest.fixture
def url(proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


def unavailable(call) -> GateUnavailable:
    with pytest.raises(GateUnavailable) as caught:
        call()
    return caught.value


def test_a_timeout_comes_at_the_deadline_and_the_next_call_works(drive, proxy, url):
    driver = drive(url, TIMEOUT_SECONDS)
    assert driver.run(ECHO, arguments=["before"]) == b"before"
    proxy.replies.hold()
    started = time.monotonic()
    assert unavailable(lambda: driver.run(ECHO, arguments=["held"])).executed == "unknown"
    assert time.monotonic() - started + 0.001 >= TIMEOUT_SECONDS
    assert time.monotonic() - started < TIMEOUT_SECONDS + LATE_SECONDS
    proxy.replies.release()
    assert driver.run(ECHO, arguments=["after"]) == b"after"


def test_the_deadline_is_that_of_the_whole_call(drive, proxy, url):
    """A reply in many pieces, each of which comes soon."""
    driver = drive(url, TIMEOUT_SECONDS)
    driver.run(ECHO, arguments=["before"])
    proxy.replies.delay(TIMEOUT_SECONDS / 3)
    started = time.monotonic()
    assert unavailable(lambda: driver.run(MANY, arguments=[1_000_000])).executed == "unknown"
    assert TIMEOUT_SECONDS <= time.monotonic() - started + 0.001 < TIMEOUT_SECONDS + LATE_SECONDS


def test_the_deadline_of_a_script_that_is_not_known_yet_is_the_same(drive, proxy, url):
    """Two replies, each in time; together too late."""
    driver = drive(url, TIMEOUT_SECONDS)
    driver.run(ECHO, arguments=["before"])
    proxy.replies.delay(TIMEOUT_SECONDS * 2 / 3)
    unseen = script_of("unseen", f"return 1 -- {uuid.uuid4()}")
    started = time.monotonic()
    assert unavailable(lambda: driver.run(unseen)).executed == "unknown"
    assert TIMEOUT_SECONDS <= time.monotonic() - started + 0.001 < TIMEOUT_SECONDS + LATE_SECONDS


def test_a_late_reply_reaches_nobody_else(drive, proxy, url):
    driver = drive(url, TIMEOUT_SECONDS)
    driver.run(ECHO, arguments=["before"])
    proxy.replies.hold()
    unavailable(lambda: driver.run(ECHO, arguments=["late"]))
    waiting = [driver.start(ECHO, "k", [f"own {number}"]) for number in range(20)]
    proxy.replies.release()
    assert [call.result(10) for call in waiting] == [b"own %d" % number for number in range(20)]


def test_a_slow_reply_within_the_deadline_is_a_reply(drive, proxy, url):
    driver = drive(url, 5)
    proxy.replies.delay(0.05)
    assert driver.run(ECHO, arguments=["slow"]) == b"slow"


def test_a_reset_in_flight_leaves_it_unknown(drive, proxy, url):
    driver = drive(url, 5)
    driver.start(ECHO, "k", ["before"]).result(10)
    proxy.replies.hold()
    call = driver.start(ECHO, "k", ["x"])
    proxy.replies.wait_held()
    proxy.reset()
    assert unavailable(lambda: call.result(10)).executed == "unknown"
    proxy.replies.release()
    assert driver.run(ECHO, arguments=["after"]) == b"after"


def test_a_script_whose_reply_was_lost_is_not_sent_again(drive, proxy, url, server):
    driver = drive(url, 5)
    driver.run(INCREMENT, "counter")
    proxy.replies.drop_next()
    assert unavailable(lambda: driver.run(INCREMENT, "counter")).executed == "unknown"
    assert server.get("counter") == b"2"
    assert driver.run(INCREMENT, "counter") == 3


def test_a_script_that_never_arrived_whole_did_not_run(drive, proxy, url, server):
    driver = drive(url, 5)
    driver.run(INCREMENT, "counter")
    proxy.requests.cut_next(30)
    unavailable(lambda: driver.run(INCREMENT, "counter"))
    assert server.get("counter") == b"1"
    assert driver.run(INCREMENT, "counter") == 2


@pytest.mark.parametrize("length", [0, 1, 5, 12])
def test_a_reply_cut_in_half_is_no_reply(drive, proxy, url, length):
    driver = drive(url, 5)
    driver.run(ECHO, arguments=["before"])
    proxy.replies.cut_next(length)
    assert unavailable(lambda: driver.run(ECHO, arguments=["a longer text"])).executed == "unknown"
    assert driver.run(ECHO, arguments=["after"]) == b"after"


def test_garbage_ends_the_connection(drive, proxy, url):
    driver = drive(url, 5)
    driver.run(ECHO, arguments=["before"])
    proxy.replies.replace_next(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert unavailable(lambda: driver.run(ECHO, arguments=["x"])).executed == "unknown"
    assert driver.run(ECHO, arguments=["after"]) == b"after"
    assert proxy.accepted == 2


def test_garbage_instead_of_a_greeting(drive, proxy, url):
    proxy.replies.replace_next(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert unavailable(lambda: drive(url, 5).run(ECHO)).executed == "no"


def test_a_redis_that_accepts_and_says_nothing_gets_no_commands(drive, proxy, url, server):
    driver = drive(url, TIMEOUT_SECONDS)
    proxy.replies.hold()
    started = time.monotonic()
    assert unavailable(lambda: driver.run(INCREMENT, "counter")).executed == "no"
    assert time.monotonic() - started < TIMEOUT_SECONDS + LATE_SECONDS
    proxy.replies.release()
    assert driver.run(INCREMENT, "counter") == 1


def test_a_connection_that_falls_silent_is_made_anew(drive, proxy, url):
    driver = drive(url, TIMEOUT_SECONDS)
    driver.run(ECHO)
    proxy.replies.hold()
    while proxy.accepted < 2:
        unavailable(lambda: driver.run(ECHO))
    proxy.replies.release()
    until(lambda: _answers(driver))


def test_a_connection_that_redis_closed_while_it_was_idle_is_made_anew(drive, proxy, url):
    driver = drive(url, 5)
    driver.run(ECHO)
    proxy.reset()
    idle_since = time.monotonic()
    until(lambda: time.monotonic() - idle_since > 2 * IDLE_SECONDS)
    assert driver.run(ECHO, arguments=["after"]) == b"after"
    assert proxy.accepted == 2


def test_a_server_that_dies_and_comes_back(drive, servers):
    port = free_port()
    process, url = start_redis(servers.binary(), servers.directory, port=port)
    driver = drive(url, 5)
    driver.run(ECHO)
    stop(process)
    unavailable(lambda: driver.run(ECHO))
    assert unavailable(lambda: driver.run(ECHO)).executed == "no"
    process, _ = start_redis(servers.binary(), servers.directory, port=port)
    until(lambda: _answers(driver))
    stop(process)


def test_nobody_there_is_told_at_once_and_not_hammered(drive):
    with socket.create_server(("127.0.0.1", 0)) as refused:
        port = refused.getsockname()[1]
    driver = drive(f"redis://127.0.0.1:{port}/0", 5)
    errors = {unavailable(lambda: driver.run(ECHO)).executed for _ in range(500)}
    assert errors == {"no"}

    with proxied(port) as proxy:
        driver = drive(f"redis://127.0.0.1:{proxy.port}/0", 5)
        started = time.monotonic()
        for _ in range(500):
            unavailable(lambda: driver.run(ECHO))
        assert proxy.accepted <= 7 + (time.monotonic() - started) / 0.1


def test_big_arguments_through_a_slow_connection(drive, proxy, url):
    driver = drive(url, 20)
    driver.run(SIZE, arguments=[""])
    proxy.requests.hold()
    calls = [driver.start(SIZE, "k", [b"x" * 200_000]) for _ in range(100)]
    proxy.requests.wait_held()
    proxy.requests.release()
    assert [call.result(20) for call in calls] == [200_000] * 100


def test_closing_while_calls_are_in_flight(drive, proxy, url):
    driver = drive(url, 30)
    driver.start(ECHO, "k", ["before"]).result(10)
    proxy.replies.hold()
    call = driver.start(ECHO, "k", ["x"])
    proxy.replies.wait_held()
    driver.close()
    assert unavailable(lambda: call.result(10)).executed == "unknown"


def test_closing_while_connecting(drive, proxy, url):
    driver = drive(url, 30)
    proxy.replies.hold()
    call = driver.start(ECHO, "k", [])
    proxy.replies.wait_held()
    driver.close()
    assert call.exception(10).executed == "no"


def _answers(driver) -> bool:
    try:
        return driver.run(ECHO, arguments=["x"]) == b"x"
    except GateUnavailable:
        return False


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_nothing_runs_twice_and_what_did_not_run_is_told_truly(drive, proxy, url, server, seed):
    """Hundreds of calls in a random storm of faults; Redis knows afterwards what ran."""
    chance = random.Random(seed)
    faults = [
        proxy.reset,
        proxy.replies.drop_next,
        proxy.requests.drop_next,
        lambda: proxy.replies.cut_next(chance.randrange(40)),
        lambda: proxy.requests.cut_next(chance.randrange(2000)),
        lambda: proxy.replies.replace_next(b"?garbage\r\n"),
        server.script_flush,
        lambda: None,
    ]
    driver = drive(url, 5)
    outcomes: dict[str, object] = {}
    for number in range(60):
        until(lambda: _answers(driver))
        keys = [f"{number}-{call}" for call in range(20)]
        calls = [driver.start(INCREMENT, key, []) for key in keys]
        chance.choice(faults)()
        outcomes |= {key: call.exception(20) or call.result() for key, call in zip(keys, calls, strict=True)}
    proxy.reset()
    until(lambda: _answers(driver))
    ran = {key: int(server.get(key) or 0) for key in outcomes}
    assert all(times <= 1 for times in ran.values())
    for key, outcome in outcomes.items():
        if isinstance(outcome, GateUnavailable):
            assert outcome.executed == "unknown" or ran[key] == 0
        else:
            assert outcome == ran[key] == 1
    answered = sum(outcome == 1 for outcome in outcomes.values())
    assert 0 < answered < len(outcomes)
