"""Which node of a Redis Cluster owns which slot, as CLUSTER SLOTS and the redirections of single commands tell.

Read here and not by redis-py's cluster clients: their discovery occupies the event loop for 5 to 20 ms (16,384 objects
and a table of all commands), where a decision has 20 ms, and the blocking one can't be held to a deadline.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

import hiredis
import msgspec

from spendgate.transports.command import pack
from spendgate.transports.endpoint import Endpoint
from spendgate.transports.replies import code_of

MAX_REDIRECTIONS: Final = 5
REFRESH_SECONDS: Final = 0.1
"""Slots are read again at most this often, while nodes fail or redirect."""
READ_SLOTS: Final = pack("CLUSTER", "SLOTS")
ASKING: Final = pack("ASKING")


class Slots:
    """Ranges of slots and their masters."""

    def __init__(self, reply: Sequence[Any], asked: Endpoint) -> None:
        """`reply` to CLUSTER SLOTS of the node at `asked`, whose own host is left out of it at times."""
        ranges = sorted((first, last, _endpoint(master, asked)) for first, last, master, *_ in reply)
        self._firsts = [first for first, _, _ in ranges]
        self._ranges = ranges

    @property
    def masters(self) -> list[Endpoint]:
        return list(dict.fromkeys(master for _, _, master in self._ranges))

    def owner(self, slot: int) -> Endpoint | None:
        """None where the cluster has lost a part of its slots."""
        index = bisect_right(self._firsts, slot) - 1
        if index < 0 or slot > self._ranges[index][1]:
            return None
        return self._ranges[index][2]


class Failures:
    """When nodes failed last. If one hangs, asking it for slots takes a whole timeout, so it is asked after the others."""

    def __init__(self) -> None:
        self._failed_at: dict[Endpoint, float] = {}

    def add(self, endpoint: Endpoint, now_seconds: float) -> None:
        self._failed_at[endpoint] = now_seconds

    def last(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        """Without repetitions, those that never failed first, the one that has just failed last."""
        return sorted(dict.fromkeys(endpoints), key=lambda endpoint: self._failed_at.get(endpoint, float("-inf")))


class Redirection(msgspec.Struct, frozen=True):
    """The command did not run: the slot has moved to `target`, or (`asking`) is about to and this key is there already."""

    asking: bool
    target: Endpoint

    @classmethod
    def of(cls, reply: hiredis.ReplyError, asked: Endpoint) -> Self | None:
        """What an error reply says, such as `MOVED 3999 127.0.0.1:6381`; None if it is none."""
        code = code_of(reply)
        if code not in ("MOVED", "ASK"):
            return None
        host, _, port = str(reply).split(" ")[2].rpartition(":")
        return cls(code == "ASK", Endpoint(host or asked.host, int(port)))


def _endpoint(node: Sequence[Any], asked: Endpoint) -> Endpoint:
    host = (node[0] or b"").decode()
    return Endpoint(asked.host if host in ("", "?") else host, node[1])
