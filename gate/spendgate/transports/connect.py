"""From a URL to a transport. Nothing is connected before the first call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from spendgate.transports.address import Address, parse_address
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.multiplexed.cluster import ClusterTransport
from spendgate.transports.multiplexed.node import Node
from spendgate.transports.multiplexed.sentinel import SentinelLocator
from spendgate.transports.multiplexed.transport import MultiplexedTransport
from spendgate.transports.port import SyncTransport, Transport
from spendgate.transports.session import Session
from spendgate.transports.threaded.cluster import ThreadedClusterTransport
from spendgate.transports.threaded.node import ThreadedNode
from spendgate.transports.threaded.sentinel import ThreadedSentinelLocator
from spendgate.transports.threaded.transport import ThreadedTransport


def connect(url: str, timeout_seconds: float) -> Transport:
    """A transport for the tasks of one event loop; see `address` for the URLs.

    The timeout is that of a whole call, connecting included. Raises ValueError when the URL can't be used.
    """
    address = _checked(url, timeout_seconds)

    def make_node(session: Session, endpoint: Endpoint) -> Node:
        return Node(endpoint, _always(endpoint), session, timeout_seconds)

    if address.kind == "cluster":
        return ClusterTransport(address.endpoints, partial(make_node, address.session), timeout_seconds)
    if address.kind == "single":
        return MultiplexedTransport(make_node(address.session, address.endpoints[0]))
    sentinels = [make_node(address.sentinel_session, endpoint) for endpoint in address.endpoints]
    locator = SentinelLocator(sentinels, address.service)
    return MultiplexedTransport(Node(_master(address), locator, address.session, timeout_seconds), sentinels)


def connect_sync(url: str, timeout_seconds: float) -> SyncTransport:
    """The same for threads, each of which has its own connections."""
    address = _checked(url, timeout_seconds)

    def make_node(session: Session, endpoint: Endpoint) -> ThreadedNode:
        return ThreadedNode(endpoint, lambda _: endpoint, session)

    if address.kind == "cluster":
        return ThreadedClusterTransport(address.endpoints, partial(make_node, address.session), timeout_seconds)
    if address.kind == "single":
        return ThreadedTransport(make_node(address.session, address.endpoints[0]), timeout_seconds)
    sentinels = [make_node(address.sentinel_session, endpoint) for endpoint in address.endpoints]
    locator = ThreadedSentinelLocator(sentinels, address.service)
    return ThreadedTransport(ThreadedNode(_master(address), locator, address.session), timeout_seconds, sentinels)


def _checked(url: str, timeout_seconds: float) -> Address:
    if not timeout_seconds > 0:
        raise ValueError(f"the timeout must be positive, not {timeout_seconds} seconds")
    return parse_address(url)


def _always(endpoint: Endpoint) -> Callable[[], Awaitable[Endpoint]]:
    async def locate() -> Endpoint:
        return endpoint

    return locate


def _master(address: Address) -> str:
    return f"the master of {address.service!r}"
