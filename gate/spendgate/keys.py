"""Names of the Redis keys.

`sg:{pNNN}:<what>[:<customer_id>]`: the hash tag comes first, so that an id with braces can't break it and all keys of
one customer are in one Redis Cluster slot.
"""

from __future__ import annotations

import zlib
from typing import Final

PARTITIONS: Final = 64
"""Fixed when a Redis is installed; `Control.prepare` refuses another number."""

INSTALL_KEY: Final = "sg:install"

SIGNING_KEY: Final = "sg:signing"
"""Signs reservation ids. Whoever can read it can read everything else here, too."""


SLOTS_KEY: Final = "sg:slots"
"""Who may let pass a share of the outage allowances; see hold_slot.lua."""


def partition_of(customer_id: str) -> int:
    """CRC32 of the UTF-8 id, modulo the number of partitions."""
    return zlib.crc32(customer_id.encode()) % PARTITIONS


def tag_of(partition: int) -> str:
    """Common prefix of all keys of a partition."""
    return f"sg:{{p{partition:03d}}}:"


_TAGS: Final = tuple(map(tag_of, range(PARTITIONS)))


def customer_tag(customer_id: str) -> str:
    """Common prefix of all keys of a customer."""
    return _TAGS[zlib.crc32(customer_id.encode()) % PARTITIONS]


def counters_key(customer_id: str) -> str:
    return f"{customer_tag(customer_id)}counters:{customer_id}"


def advice_key(customer_id: str) -> str:
    """The advisory hash for gateways that read Redis; outside the partitions' slots on purpose: nobody writes both."""
    return f"sg:advice:{customer_id}"


def decision_id_of(partition: int, stream_id: str) -> str:
    """A decision is named by where it stands: partition, epoch and sequence."""
    return f"d{partition:03d}-{stream_id}"
