"""What only the tasks of an event loop can do to a transport: be cancelled, be very many, and outlive their loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

from clusters import until
from proxy import Proxy, proxied
from spendgate import GateUnavailable
from spendgate.transports import Transport, connect
from spendgate.transports.multiplexed.batch import MAX_BACKLOG_BYTES
from spendgate.transports.multiplexed.node import COMMANDS_A_WRITE, MAX_ABANDONED, MAX_IN_FLIGHT
from transport_scripts import ECHO, INCREMENT, SIZE

LATE_SECONDS = 0.05
BIG = b"x" * 200_000


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with proxied(server.connection_pool.connection_kwargs["port"]) as made:
        yield made


@pytest.fixture
def url(proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


async def held(proxy: Proxy) -> None:
    await asyncio.to_thread(proxy.replies.wait_held)


async def echo(transport: Transport, text: str) -> bytes:
    return await transport.run(ECHO, "k", [text])


def test_redis_begins_while_the_turn_goes_on(server, url):
    async def scenario() -> None:
        transport = connect(url, 10)
        server.delete("begun")
        await transport.run(INCREMENT, "begun", [])

        async def still_in_the_turn() -> int:
            until(lambda: int(server.get("begun")) == 1 + COMMANDS_A_WRITE)
            return len(waiting)

        waiting: set[int] = set()

        async def call(number: int) -> None:
            waiting.add(number)
            await transport.run(INCREMENT, "begun", [])
            waiting.remove(number)

        calls = [call(number) for number in range(COMMANDS_A_WRITE + 3)]
        *_, others = await asyncio.gather(*calls, still_in_the_turn())
        assert others == len(calls)
        assert int(server.get("begun")) == 1 + len(calls)
        await transport.aclose()

    asyncio.run(scenario())


def test_a_cancelled_caller_disturbs_nobody(proxy, url):
    async def scenario() -> None:
        transport = connect(url, 10)
        await echo(transport, "before")
        proxy.replies.hold()
        tasks = [asyncio.create_task(echo(transport, str(number))) for number in range(30)]
        await held(proxy)
        for task in tasks[::3]:
            task.cancel()
        proxy.replies.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(results):
            if number % 3 == 0:
                assert isinstance(result, asyncio.CancelledError)
            else:
                assert result == str(number).encode()
        assert await echo(transport, "after") == b"after"
        assert proxy.accepted == 1
        await transport.aclose()

    asyncio.run(scenario())


def test_what_is_cancelled_before_it_is_sent_is_never_sent(server, proxy, url):
    async def scenario() -> None:
        transport = connect(url, 10)
        await echo(transport, "before")
        at_once = asyncio.create_task(transport.run(INCREMENT, "counter", []))
        await asyncio.sleep(0)
        at_once.cancel()
        await echo(transport, "after")
        await transport.aclose()

        transport = connect(url, 10)
        proxy.replies.hold()
        connecting = asyncio.create_task(transport.run(INCREMENT, "counter", []))
        await held(proxy)
        connecting.cancel()
        proxy.replies.release()
        await echo(transport, "after")
        await transport.aclose()

    asyncio.run(scenario())
    assert server.get("counter") is None


def test_the_first_calls_share_one_connection(proxy, url):
    async def scenario() -> None:
        transport = connect(url, 10)
        texts = [str(number) for number in range(200)]
        assert await asyncio.gather(*(echo(transport, text) for text in texts)) == [text.encode() for text in texts]
        await transport.aclose()

    asyncio.run(scenario())
    assert proxy.accepted == 1


def test_each_call_has_its_own_deadline_and_all_of_them_one_timer(proxy, url):
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        transport = connect(url, 0.3)
        await echo(transport, "before")
        proxy.replies.hold()

        async def seconds_until_timeout() -> float:
            started = loop.time()
            with pytest.raises(GateUnavailable):
                await echo(transport, "held")
            return loop.time() - started

        calls = []
        for _ in range(4):
            calls += [asyncio.create_task(seconds_until_timeout()) for _ in range(50)]
            await asyncio.sleep(0.06)
        assert len(loop._scheduled) <= 2
        seconds = sorted(await asyncio.gather(*calls))
        assert seconds[0] >= 0.299
        assert seconds[len(seconds) // 2] < 0.3 + LATE_SECONDS
        assert seconds[-1] < 0.3 + 10 * LATE_SECONDS
        proxy.replies.release()
        await transport.aclose()

    asyncio.run(scenario())


def test_too_many_commands_in_flight_are_refused(proxy, url):
    async def scenario() -> None:
        transport = connect(url, 30)
        await echo(transport, "before")
        proxy.replies.hold()
        calls = [asyncio.ensure_future(echo(transport, str(number))) for number in range(MAX_IN_FLIGHT)]
        await held(proxy)
        with pytest.raises(GateUnavailable, match="wait for Redis") as caught:
            await echo(transport, "one too many")
        assert caught.value.executed == "no"
        proxy.replies.release()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(MAX_IN_FLIGHT)]
        assert await echo(transport, "after") == b"after"
        await transport.aclose()

    asyncio.run(scenario())


def test_too_many_in_one_turn_are_refused(url):
    async def scenario() -> None:
        transport = connect(url, 30)
        calls = (echo(transport, str(number)) for number in range(MAX_IN_FLIGHT + 5))
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert replies[:MAX_IN_FLIGHT] == [b"%d" % number for number in range(MAX_IN_FLIGHT)]
        assert [error.executed for error in replies[MAX_IN_FLIGHT:]] == ["no"] * 5
        await transport.aclose()

    asyncio.run(scenario())


def test_a_connection_that_owes_too_many_replies_is_made_anew(proxy, url):
    async def scenario() -> None:
        transport = connect(url, 1)
        await echo(transport, "before")
        proxy.replies.hold()
        calls = (echo(transport, str(number)) for number in range(MAX_ABANDONED + 1))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {error.executed for error in errors} == {"unknown"}
        proxy.replies.release()
        assert await echo(transport, "after") == b"after"
        assert proxy.accepted == 2
        await transport.aclose()

    asyncio.run(scenario())


def test_a_late_reply_that_has_come_is_owed_no_more(proxy, url):
    async def scenario() -> None:
        transport = connect(url, 0.5)
        await echo(transport, "before")
        for _ in range(2):
            proxy.replies.hold()
            calls = (echo(transport, str(number)) for number in range(MAX_ABANDONED * 2 // 3))
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert {error.executed for error in errors} == {"unknown"}
            proxy.replies.release()
            assert await echo(transport, "after") == b"after"
        assert proxy.accepted == 1
        await transport.aclose()

    asyncio.run(scenario())


def test_what_a_slow_connection_does_not_take_waits_within_bounds(server, proxy, url):
    async def scenario() -> None:
        transport = connect(url, 30)
        await echo(transport, "before")
        proxy.requests.hold()
        calls = []
        for _ in range(2 * MAX_BACKLOG_BYTES // len(BIG)):
            calls.append(asyncio.ensure_future(transport.run(SIZE, "k", [BIG])))
            await asyncio.sleep(0)
        proxy.requests.release()
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, GateUnavailable)]
        assert {error.executed for error in refused} == {"no"}
        assert all("wait to be sent" in str(error) for error in refused)
        assert set(results) - set(refused) == {len(BIG)}
        await transport.aclose()

    asyncio.run(scenario())


def test_what_timed_out_before_it_was_sent_did_not_run(server, proxy, url):
    async def scenario() -> dict[str, int]:
        transport = connect(url, 0.4)
        await echo(transport, "before")
        proxy.requests.hold()
        calls = []
        for _ in range(100):
            calls.append(asyncio.ensure_future(transport.run(INCREMENT, "counter", [BIG])))
            await asyncio.sleep(0)
        errors = [call.executed for call in await asyncio.gather(*calls, return_exceptions=True)]
        proxy.requests.release()
        await transport.aclose()
        return {executed: errors.count(executed) for executed in errors}

    counts = asyncio.run(scenario())
    assert counts["no"] > 0
    assert int(server.get("counter") or 0) <= counts["unknown"]


def test_what_waits_when_the_connection_is_lost_goes_out_on_the_next(server, proxy, url):
    async def scenario() -> list[int | GateUnavailable]:
        transport = connect(url, 30)
        await echo(transport, "before")
        proxy.requests.hold()
        calls = []
        for _ in range(100):
            calls.append(asyncio.ensure_future(transport.run(INCREMENT, "counter", [BIG])))
            await asyncio.sleep(0)
        await asyncio.to_thread(proxy.reset)
        proxy.requests.release()
        results = await asyncio.gather(*calls, return_exceptions=True)
        await transport.aclose()
        return results

    results = asyncio.run(scenario())
    errors = [result for result in results if isinstance(result, GateUnavailable)]
    assert {error.executed for error in errors} == {"unknown"}
    assert 0 < len(errors) < 100
    assert len(results) - len(errors) <= int(server.get("counter")) <= len(results)


def test_a_second_event_loop_is_refused_while_the_first_one_lives(url):
    transport = connect(url, 10)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(echo(transport, "x")) == b"x"
    errors = []

    def on_another_loop() -> None:
        async def scenario() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await echo(transport, "y")
            errors.append("refused")

        asyncio.run(scenario())

    thread = threading.Thread(target=on_another_loop)
    thread.start()
    thread.join(20)
    assert errors == ["refused"]
    assert loop.run_until_complete(echo(transport, "z")) == b"z"
    loop.run_until_complete(transport.aclose())
    loop.close()


def test_the_next_event_loop_connects_anew_and_the_last_one_leaves_nothing_open(proxy, url):
    """Without `aclose`: an unclosed socket would be a ResourceWarning, which fails this test."""
    transport = connect(url, 10)
    for number in range(3):
        assert asyncio.run(echo(transport, f"loop {number}")) == f"loop {number}".encode()
        gc.collect()
    assert proxy.accepted == 3


def test_an_event_loop_that_ends_in_the_middle_of_a_call_leaves_nothing_open(proxy, url):
    transport = connect(url, 10)

    async def scenario() -> None:
        await echo(transport, "before")
        proxy.replies.hold()
        for _ in range(3):
            asyncio.ensure_future(echo(transport, "held"))  # noqa: RUF006  (ends with the loop)
        await held(proxy)

    asyncio.run(scenario())
    proxy.replies.release()
    gc.collect()
    assert asyncio.run(echo(transport, "after")) == b"after"
