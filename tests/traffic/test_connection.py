"""What a server may do to a connection, and what becomes of the event: retried with the same bytes, or told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import msgspec
import pytest

from spendgate_daemon.demo.profile import Run
from spendgate_daemon.traffic.connection import Target
from spendgate_daemon.traffic.events import traffic_event
from spendgate_daemon.traffic.options import TrafficOptions
from spendgate_daemon.traffic.sender import Sender
from spendgate_daemon.traffic.summary import Tally

ALLOW = b'{"decision":"allow","duplicate":false,"reason":{"code":"allowed"},"more":{"ignored":1}}'
EVENT = traffic_event("run", 0, 0.0, "acme", Run("m", 10, 5, 0))


def answer(status, body, headers=b""):
    return b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)


async def talk(script, *, sends=1, **options):
    """Send an event to a server that answers each request with the next bytes of `script` (None: hang up; a number:
    say nothing for that long). The tally, and the bodies that the server got."""
    got: list[bytes] = []
    replies = itertools.chain(script, itertools.repeat(answer(200, ALLOW)))

    serving = set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                got.append(await reader.readexactly(length))
                reply = next(replies)
                if reply is None:
                    break
                if isinstance(reply, float):
                    await asyncio.sleep(reply)
                    continue
                for half in (reply[: len(reply) // 2], reply[len(reply) // 2 :]):
                    writer.write(half)
                    await writer.drain()
                    await asyncio.sleep(0)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base"
        wanted = TrafficOptions(api_url=url, decide_key="sg_1_x", **({"timeout_seconds": 0.2} | options))
        tally = Tally("run", 0)
        sender = Sender(Target.of(url, "/v1/decisions", "sg_1_x"), wanted, tally, asyncio.Event())
        for _ in range(sends):
            tally.begin(0)
            await sender.send(EVENT)
        sender.close()
        await asyncio.wait(serving)
    return tally.summary(1.0, complete=True), got


@pytest.mark.parametrize(
    "script",
    [
        [None],
        [answer(503, b"{}", b"Retry-After: 0\r\n")],
        [answer(500, b"oops")],
        [answer(429, b"")],
        [b"SSH-2.0-OpenSSH\r\n"],
        [answer(200, ALLOW)[:40] + b"\x00\xff" * 20],
        [answer(200, ALLOW, b"Content-Length: 3\r\n")],
        [0.3],
        [answer(200, b"x" * (1024 * 1024 + 1))],
        [None, answer(502, b""), None],
    ],
    ids=["hang up", "503", "500", "429", "no HTTP", "cut off", "two lengths", "silence", "too large", "three faults"],
)
def test_what_is_no_decision_is_asked_again_with_the_same_bytes(script, run):
    summary, got = run(talk(script))
    assert (summary.allowed, summary.errors, summary.retries) == (1, 0, len(script))
    assert got == [EVENT.body] * (len(script) + 1)


def test_a_connection_is_kept_and_one_that_the_server_closes_is_replaced(run):
    closing = answer(200, ALLOW, b"Connection: close\r\n")
    summary, got = run(talk([closing, answer(200, ALLOW)], sends=3))
    assert (summary.allowed, summary.retries, len(got)) == (3, 0, 3)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (answer(422, b'{"detail":"meter must be known"}'), "422 meter must be known"),
        (answer(404, b"<html>"), "404 <html>"),
        (answer(200, b"{}"), "an answer that is no decision"),
        (answer(200, b"[" * 100), "an answer that is no decision"),
    ],
)
def test_what_will_not_get_better_is_an_error_at_once(reply, problem, run):
    summary, got = run(talk([reply]))
    assert (summary.errors, summary.retries, len(got)) == (1, 0, 1)
    assert summary.problems[0].startswith(problem)


def test_giving_up_says_what_the_last_fault_was(run):
    summary, _ = run(talk([answer(503, b'{"title":"Redis is down"}')] * 100, retry_seconds=0.0))
    assert summary.errors == 1
    assert summary.problems == ("no decision within 0 s: 503 Redis is down",)


def test_a_key_that_no_header_can_carry_is_refused():
    with pytest.raises(ValueError, match="a key is ASCII"):
        Target.of("http://x", "/", "sg_1\r\nEvil: 1")


def test_the_tally_tells_where_to_go_on_and_its_percentiles_are_close():
    tally = Tally("run", 5)
    for row in range(5, 1005):
        tally.begin(row)
    for row in range(5, 1005):
        if row != 77:
            tally.decided(row, "allow", "allowed", {"m": 2}, float(row - 4))
    summary = tally.summary(2.0, complete=True)
    assert (summary.next_row, summary.complete) == (77, False)
    assert summary.p50_ms == pytest.approx(500, rel=0.03)
    assert summary.p99_ms == pytest.approx(990, rel=0.03)
    assert (summary.max_ms, summary.units, summary.events_per_second) == (1000.0, {"m": 1998}, 499.5)
    assert Tally("x", 0).summary(0.0, complete=True).p50_ms is None
    assert msgspec.json.decode(summary.to_json())["next_row"] == 77
