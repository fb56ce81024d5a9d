"""Encrypted connections fail clearly when the other side can't be trusted."""

from __future__ import annotations

import pytest

from spendgate import GateUnavailable
from transport_scripts import ECHO


def refused(call) -> str:
    with pytest.raises(GateUnavailable) as caught:
        call()
    assert caught.value.executed == "no"
    return str(caught.value)


def test_a_certificate_of_an_unknown_authority(drive, servers):
    url = servers.url("tls").replace("ca.crt", "other.crt")
    assert "certificate verify failed" in refused(lambda: drive(url).run(ECHO))


def test_a_certificate_of_the_systems_authorities_only(drive, servers):
    url = servers.url("tls").partition("?")[0]
    assert "certificate verify failed" in refused(lambda: drive(url).run(ECHO))


def test_a_certificate_for_another_name(drive, servers):
    url = servers.url("tls").replace("127.0.0.1", "127.0.0.2")
    assert "127.0.0.2" in refused(lambda: drive(url).run(ECHO))


def test_names_and_authorities_unchecked_on_request(drive, servers):
    url = servers.url("tls").partition("?")[0] + "?ssl_cert_reqs=none"
    assert drive(url).run(ECHO, arguments=["x"]) == b"x"


def test_encryption_where_redis_speaks_plainly(drive, servers):
    """It waits for the rest of a line, so nothing but the deadline ends this."""
    url = servers.url("tcp").replace("redis://", "rediss://")
    refused(lambda: drive(url, 0.3).run(ECHO))


def test_plain_speech_where_redis_wants_encryption(drive, servers):
    url = servers.url("tls").partition("?")[0].replace("rediss://", "redis://")
    assert "cannot connect" in refused(lambda: drive(url).run(ECHO))
