"""How a Sentinel is asked for the master.

The address may be that of a master which has just failed: the connection made to it asks for its role first, as the
protocol for Sentinel clients wants (https://redis.io/docs/latest/develop/reference/sentinel-clients/).
"""

from __future__ import annotations

from typing import Any

import hiredis

from spendgate.errors import GateUnavailable
from spendgate.transports.command import pack
from spendgate.transports.endpoint import Endpoint


def find_master(service: str) -> bytes:
    """The packed command."""
    return pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)


def master_in(reply: Any, service: str) -> Endpoint:
    """The answer to it. Raises GateUnavailable if there is none."""
    if isinstance(reply, hiredis.ReplyError):
        raise GateUnavailable(str(reply), "no")
    if reply is None:
        raise GateUnavailable(f"it knows no service {service!r}", "no")
    host, port = reply
    return Endpoint(host.decode(), int(port))
