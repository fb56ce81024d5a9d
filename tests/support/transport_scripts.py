"""Scripts for tests of the transports."""

from __future__ import annotations

import contextlib
import uuid

import msgspec
import redis

from spendgate.script import LIBRARY_PREFIX, Library, Script, script_of

ECHO = script_of("echo", "return ARGV[1]")
ARGUMENTS = script_of("arguments", "return ARGV")
REPLIES = script_of(
    "replies", "return {1, -9007199254740991, 'text', false, {}, {2, {'deep'}}, redis.status_reply('FINE')}"
)
NOTHING = script_of("nothing", "return false")
MANY = script_of("many", "return string.rep('x', ARGV[1])")
SIZE = script_of("size", "return #ARGV[1]")
SET = script_of("set", "redis.call('SET', KEYS[1], ARGV[1]) return 1")
INCREMENT = script_of("increment", "return redis.call('INCR', KEYS[1])")
FAIL = script_of("fail", "return nil + 1")
WRITE_THEN_FAIL = script_of("write_then_fail", "redis.call('SET', KEYS[1], '1') redis.call('RPUSH', KEYS[1], '1')")
FOREVER = script_of("forever", "while true do end")


def new_function(name: str, body: str, *, only_reads: bool = False) -> Script:
    """A script that is the only function of a library which no Redis has seen yet. `runs` is kept there from run to run; where
    it runs by its SHA-1, it is 0 each time."""
    library = f"{LIBRARY_PREFIX}{uuid.uuid4().hex[:12]}"
    run, flags = f"function(keys, args) KEYS, ARGV = keys, args {body} end", "'no-writes'" if only_reads else ""
    fields = f"function_name = '{library}_{name}', callback = {run}, flags = {{{flags}}}"
    source = f"#!lua name={library}\nlocal runs, KEYS, ARGV = 0, nil, nil\nredis.register_function{{{fields}}}"
    alone = script_of(name, f"local runs = 0 {body} -- {library}")
    return msgspec.structs.replace(alone, function=f"{library}_{name}", library=Library(library, source))


def forget_scripts(client: redis.Redis) -> None:
    """Let a Redis forget all scripts and functions; before 7 there are none of these."""
    client.script_flush()
    with contextlib.suppress(redis.exceptions.ResponseError):
        client.function_flush()


def has_functions(client: redis.Redis) -> bool:
    return int(client.info("server")["redis_version"].partition(".")[0]) >= 7
