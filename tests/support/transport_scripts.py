"""Scripts for tests of the transports."""

from __future__ import annotations

from spendgate.script import Script

ECHO = Script("echo", "return ARGV[1]")
ARGUMENTS = Script("arguments", "return ARGV")
REPLIES = Script(
    "replies", "return {1, -9007199254740991, 'text', false, {}, {2, {'deep'}}, redis.status_reply('FINE')}"
)
NOTHING = Script("nothing", "return false")
MANY = Script("many", "return string.rep('x', ARGV[1])")
SIZE = Script("size", "return #ARGV[1]")
SET = Script("set", "redis.call('SET', KEYS[1], ARGV[1]) return 1")
INCREMENT = Script("increment", "return redis.call('INCR', KEYS[1])")
FAIL = Script("fail", "return nil + 1")
WRITE_THEN_FAIL = Script("write_then_fail", "redis.call('SET', KEYS[1], '1') redis.call('RPUSH', KEYS[1], '1')")
FOREVER = Script("forever", "while true do end")
