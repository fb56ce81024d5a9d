"""Scripts for tests of the transports."""

from __future__ import annotations

from spendgate.script import script_of

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
