"""What each error reply says about the event. The texts are those of Redis 6.2 and 7.0."""

from __future__ import annotations

import hiredis
import pytest

from spendgate import GateUnavailable, ScriptFailed
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.replies import error_of
from spendgate.transports.slots import Failures, Redirection, Slots

SHA = "a" * 40
IN_7 = f" script: {SHA}, on @user_script:3."
IN_6 = f"ERR Error running script (call to f_{SHA}): @user_script:3: "


@pytest.mark.parametrize(
    "text",
    [
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM User gate has no permissions to run the 'evalsha' command",
        "ERR max number of clients reached",
        "MOVED 3999 127.0.0.1:6381",
        "OOM command not allowed when used memory > 'maxmemory'." + IN_7,
        "READONLY You can't write against a read only replica." + IN_7,
        "MISCONF Errors writing to the AOF file: No space left on device" + IN_7,
        "NOREPLICAS Not enough good replicas to write." + IN_7,
        IN_6 + "@user_script: 3: -READONLY You can't write against a read only replica.",
        IN_6 + "-OOM command not allowed when used memory > 'maxmemory'.",
    ],
)
def test_refused_before_anything_was_written(text):
    error = error_of(hiredis.ReplyError(text), "script decide", "here:1")
    assert isinstance(error, GateUnavailable)
    assert error.executed == "no"
    assert text in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "WRONGTYPE Operation against a key holding the wrong kind of value" + IN_7,
        "ERR user_script:3: attempt to index a nil value" + IN_7,
        "NOPERM User gate has no permissions to run the 'hset' command" + IN_7,
        IN_6 + "user_script:3: attempt to index a nil value",
        IN_6 + "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR unknown command `EVALSHA`",
        "BUSYGROUP Consumer Group name already exists" + IN_7,
        "ERR value is not an integer or out of range",
    ],
)
def test_an_error_that_may_come_after_a_write(text):
    error = error_of(hiredis.ReplyError(text), "script decide", "here:1")
    assert isinstance(error, ScriptFailed)
    assert text in str(error)
    assert "script decide" in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirection(False, Endpoint("127.0.0.1", 6381))),
        ("ASK 3999 node.example.org:6381", Redirection(True, Endpoint("node.example.org", 6381))),
        ("MOVED 3999 ::1:6381", Redirection(False, Endpoint("::1", 6381))),
        ("MOVED 3999 :6381", Redirection(False, Endpoint("asked", 6381))),
        ("ERR MOVED 3999 127.0.0.1:6381", None),
    ],
)
def test_redirections(text, expected):
    assert Redirection.of(hiredis.ReplyError(text), Endpoint("asked", 1)) == expected


def test_slots_by_owner():
    asked = Endpoint("asked", 1)
    replica = [b"10.0.0.9", 9, b"id", []]
    reply = [
        [8000, 16383, [b"10.0.0.2", 2, b"id", []], replica],
        [0, 4999, [b"10.0.0.1", 1, b"id"]],
        [5000, 5999, [None, 3, b"id", []]],
        [6000, 6000, [b"", 4, b"id", []]],
    ]
    slots = Slots(reply, asked)
    owners = {slot: slots.owner(slot) for slot in (0, 4999, 5000, 6000, 6001, 7999, 8000, 16383)}
    assert owners == {
        0: Endpoint("10.0.0.1", 1),
        4999: Endpoint("10.0.0.1", 1),
        5000: Endpoint("asked", 3),
        6000: Endpoint("asked", 4),
        6001: None,
        7999: None,
        8000: Endpoint("10.0.0.2", 2),
        16383: Endpoint("10.0.0.2", 2),
    }
    assert len(slots.masters) == 4


def test_nodes_that_failed_are_asked_last():
    a, b, c = (Endpoint(host) for host in "abc")
    failures = Failures()
    assert failures.last([a, b, a, c]) == [a, b, c]
    failures.add(a, 1.0)
    failures.add(b, 2.0)
    assert failures.last([a, b, c]) == [c, a, b]
    failures.add(a, 3.0)
    assert failures.last([a, b, c]) == [c, b, a]
