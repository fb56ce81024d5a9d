"""What a Redis URL means, and that no error about one repeats its password."""

from __future__ import annotations

import pytest

from spendgate.transports import connect, connect_sync
from spendgate.transports.address import parse_address
from spendgate.transports.endpoint import Endpoint


def endpoints(url: str) -> list[str]:
    return [str(endpoint) for endpoint in parse_address(url).endpoints]


def test_one_redis():
    address = parse_address("redis://name:p%40ss%2Fword@example.org:1234/5?client_name=gate")
    assert address.kind == "single"
    assert address.endpoints == (Endpoint("example.org", 1234),)
    session = address.session
    assert (session.username, session.password, session.db, session.client_name) == ("name", "p@ss/word", 5, "gate")
    assert session.tls is None


def test_what_is_left_out_is_what_redis_py_assumes():
    assert endpoints("redis://") == ["localhost:6379"]
    assert endpoints("unix:///run/redis.sock?db=2") == ["/run/redis.sock"]
    assert parse_address("unix://:word@/run/redis.sock?db=2").session.db == 2


def test_a_cluster():
    address = parse_address("rediss+cluster://:word@a:1,[::1]:2,c?ssl_cert_reqs=none")
    assert address.kind == "cluster"
    assert [str(endpoint) for endpoint in address.endpoints] == ["a:1", "[::1]:2", "c:6379"]
    assert address.session.password == "word"
    assert address.session.tls is not None


def test_sentinels():
    address = parse_address("redis+sentinel://:word@a,b:2/the%20gate/3?sentinel_password=other")
    assert address.kind == "sentinel"
    assert [str(endpoint) for endpoint in address.endpoints] == ["a:26379", "b:2"]
    assert (address.service, address.session.db, address.session.password) == ("the gate", 3, "word")
    assert address.session.masters_only
    assert address.sentinel_session.password == "other"
    assert not address.sentinel_session.masters_only


@pytest.mark.parametrize("url", ["redis://h?socket_timeout=3&max_connections=9", "redis://h?protocol=3"])
def test_options_of_redis_pys_pools_have_no_meaning_here(url):
    assert endpoints(url) == ["h:6379"]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://localhost:x",
        "redis://localhost:70000",
        "redis://localhost?db=x",
        "redis://localhost?decode_responses=true",
        "redis://localhost?ssl_cert_reqs=none",
        "rediss://localhost?ssl_cert_reqs=never",
        "rediss://localhost?ssl_ca_certs=/nowhere",
        "rediss://localhost?ssl_colour=blue",
        "redis+cluster://a,b/1",
        "redis+sentinel://a,b",
        "redis+sentinel://a,b/service/x",
        "redis://a?sentinel_password=x",
    ],
)
def test_what_is_not_understood_is_an_error(url):
    with pytest.raises(ValueError, match=r"URL|Cluster"):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret/more@host:1/0",
        "redis://:s3cret?more=s3cret@host:1/0",
        "redis://:more@s3cret@host:s3cret",
        "redis://:[s3cret@host",
        "redis://host?s3cret=1",
        "redis+sentinel://:s3cret@host",
        "redis+cluster://:s3cret@host:x",
        "s3cret://host",
    ],
)
def test_errors_do_not_quote_the_url(url):
    with pytest.raises(ValueError, match="URL") as caught:
        parse_address(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_nothing_shows_a_password():
    address = parse_address("redis+sentinel://name:s3cret@a/service?sentinel_password=s3cret")
    assert "s3cret" not in f"{address!r} {address} {address.session!r} {address.sentinel_session!r}"


@pytest.mark.parametrize("timeout_seconds", [0, -1, float("nan")])
@pytest.mark.parametrize("make", [connect, connect_sync])
def test_a_timeout_is_positive(make, timeout_seconds):
    with pytest.raises(ValueError, match="timeout"):
        make("redis://localhost", timeout_seconds)
