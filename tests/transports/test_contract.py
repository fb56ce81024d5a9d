"""What every transport does, whatever is behind it."""

from __future__ import annotations

import uuid

import pytest

from spendgate import ScriptFailed
from spendgate.script import script_of
from transport_scripts import ARGUMENTS, ECHO, FAIL, INCREMENT, NOTHING, REPLIES, SET, SIZE, WRITE_THEN_FAIL


@pytest.fixture
def key() -> str:
    return f"test:{uuid.uuid4().hex}"


def test_replies_of_every_type_arrive_as_they_are(driver):
    assert driver.run(REPLIES) == [1, -9007199254740991, b"text", None, [], [2, [b"deep"]], b"FINE"]
    assert driver.run(NOTHING) is None


def test_arguments_arrive_as_they_are(driver):
    every_byte = bytes(range(256))
    sent = ["", "käse 🧀", "\r\n$3\r\n", every_byte, b"", 0, -5, 10**15]
    expected = [b"", "käse 🧀".encode(), b"\r\n$3\r\n", every_byte, b"", b"0", b"-5", b"1000000000000000"]
    assert driver.run(ARGUMENTS, arguments=sent) == expected


def test_big_arguments_and_replies(driver):
    big = bytes(range(256)) * 800
    assert driver.run(SIZE, arguments=[big]) == len(big)
    assert driver.run(ECHO, arguments=[big]) == big


def test_a_key_is_read(driver, key):
    assert driver.get(key) is None
    driver.run(SET, key, [b"\0value"])
    assert driver.get(key) == b"\0value"


def test_each_of_many_concurrent_calls_gets_its_own_reply(driver):
    replies = driver.gather([(ECHO, f"key{number % 50}", [number]) for number in range(1000)])
    assert replies == [b"%d" % number for number in range(1000)]


def test_big_and_small_calls_mix(driver):
    arguments = [bytes([number]) * (100_000 if number % 10 == 0 else 3) for number in range(200)]
    assert driver.gather([(ECHO, f"key{number}", [argument]) for number, argument in enumerate(arguments)]) == arguments


def test_a_script_that_redis_has_never_seen_runs_once(driver, key):
    unseen = script_of("unseen", f"{INCREMENT.source} -- {key}")
    assert driver.run(unseen, key) == 1
    assert driver.run(unseen, key) == 2


def test_callers_that_meet_an_unseen_script_together_all_run_it_once(driver, key):
    unseen = script_of("unseen", f"{INCREMENT.source} -- {key}")
    assert sorted(driver.gather([(unseen, key, [])] * 100)) == list(range(1, 101))


@pytest.mark.parametrize("script", [FAIL, WRITE_THEN_FAIL], ids=lambda script: script.name)
def test_an_error_inside_of_a_script_is_the_callers_and_nobody_elses(driver, key, script):
    with pytest.raises(ScriptFailed, match=script.name):
        driver.run(script, key)
    mixed = driver.gather([(script, key, []), (ECHO, key, ["x"])] * 20)
    assert mixed[1::2] == [b"x"] * 20
    assert all(isinstance(error, ScriptFailed) for error in mixed[::2])


def test_a_key_of_another_type_is_an_error(driver, key):
    driver.run(script_of("push", "return redis.call('RPUSH', KEYS[1], 'x')"), key)
    with pytest.raises(ScriptFailed, match="WRONGTYPE"):
        driver.get(key)


def test_an_argument_that_is_no_text_fails_alone(driver):
    calls = [(ECHO, "k", ["fine"]), (ECHO, "k", ["\ud800"]), (ECHO, "k", ["too"])]
    first, second, third = driver.gather(calls)
    assert (first, third) == (b"fine", b"too")
    assert isinstance(second, UnicodeEncodeError)


def test_use_after_close_is_an_error(driver):
    driver.run(ECHO, arguments=["x"])
    driver.close()
    driver.close()
    with pytest.raises(RuntimeError, match="closed"):
        driver.run(ECHO, arguments=["x"])
    with pytest.raises(RuntimeError, match="closed"):
        driver.get("k")


def test_closing_what_was_never_used(driver):
    driver.close()
    with pytest.raises(RuntimeError, match="closed"):
        driver.get("k")
