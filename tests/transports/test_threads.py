"""What only threads and processes can do to a transport: end, fork, and be interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from clusters import until
from proxy import Proxy, proxied
from spendgate.transports import connect_sync
from transport_scripts import ECHO


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with proxied(server.connection_pool.connection_kwargs["port"]) as made:
        yield made


def test_each_thread_has_a_connection_and_takes_it_along_when_it_ends(server, servers):
    transport = connect_sync(f"{servers.url('tcp')}?client_name=one-of-many", 10)
    replies: dict[int, bytes] = {}
    everybody_connected, may_end = threading.Barrier(11), threading.Event()

    def use(number: int) -> None:
        replies[number] = transport.run(ECHO, "k", [number])
        everybody_connected.wait(20)
        may_end.wait(20)

    def connected() -> int:
        return sum(client["name"] == "one-of-many" for client in server.client_list())

    threads = [threading.Thread(target=use, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    everybody_connected.wait(20)
    assert connected() == 10
    may_end.set()
    for thread in threads:
        thread.join(20)
    until(lambda: connected() == 0)
    assert replies == {number: b"%d" % number for number in range(10)}
    transport.close()


class Interrupted(Exception):
    pass


def test_an_interrupted_call_leaves_no_reply_behind(server, proxy):
    transport = connect_sync(f"redis://127.0.0.1:{proxy.port}/0", 10)
    transport.run(ECHO, "k", ["before"])

    def interrupt(*_) -> None:
        raise Interrupted

    def when_held() -> None:
        proxy.replies.wait_held()
        signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, interrupt)
    proxy.replies.hold()
    watcher = threading.Thread(target=when_held)
    watcher.start()
    try:
        with pytest.raises(Interrupted):
            transport.run(ECHO, "k", ["interrupted"])
    finally:
        signal.signal(signal.SIGUSR1, before)
        watcher.join(20)
    proxy.replies.release()
    assert transport.run(ECHO, "k", ["after"]) == b"after"
    transport.close()


FORKED = """
import asyncio, os, sys
from spendgate.script import script_of
from spendgate.transports import connect, connect_sync

ECHO = script_of("echo", "return ARGV[1]")
blocking, multiplexed = connect_sync(sys.argv[1], 10), connect(sys.argv[1], 10)

def ask(number):
    assert blocking.run(ECHO, "k", [number]) == b"%d" % number
    assert asyncio.run(multiplexed.run(ECHO, "k", [number])) == b"%d" % number

ask(0)
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(200):
            ask(child * 1000 + number)
        os._exit(0)
    children.append(pid)
for number in range(200):
    ask(-1 - number)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
ask(7)
blocking.close()
"""


def test_a_forked_child_makes_its_own_connections(servers):
    subprocess.run([sys.executable, "-W", "error", "-c", FORKED, servers.url("tcp")], check=True, timeout=60)
