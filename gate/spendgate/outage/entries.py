"""What a journal holds: frames of length, CRC-32 and one entry in MessagePack. A torn last frame was never answered for."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

from spendgate.decide import Mode
from spendgate.event import UsageEvent
from spendgate.reservation import Action

KeptCounter = tuple[str, str, str, bytes]
"""Customer id, counter field, value of the limit's `per` ("" without one), and the counter as bytes."""


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    """The first entry of a file: the journal's name, and the last sequence of what was compacted away."""

    journal: str
    sequence: int
    counters: tuple[KeptCounter, ...]


class Granted(msgspec.Struct, frozen=True, array_like=True, tag="granted"):
    """An event that was let pass; `counters` are the process' own after it. `ends_at_us` is a reservation's deadline and
    grace, otherwise 0."""

    sequence: int
    event: UsageEvent
    mode: Mode
    effective_at_us: int
    digest: str
    counters: tuple[KeptCounter, ...]
    ends_at_us: int = 0


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """A reservation that was ended while Redis was away; it may have been given by Redis or here. `digest` is of the
    customer's policy then."""

    sequence: int
    event: UsageEvent
    stream_id: str
    effective_at_us: int
    action: Action
    actual: dict[str, int]
    counters: tuple[KeptCounter, ...]
    digest: str = ""


class Settled(msgspec.Struct, frozen=True, array_like=True, tag="settled"):
    """Redis has it. `counters` hold what came back to the share; `problem` says why it could not be debited, if so."""

    sequence: int
    counters: tuple[KeptCounter, ...] = ()
    problem: str = ""


Entry = Opened | Granted | Ended | Settled

_HEAD: Final = struct.Struct(">II")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def frame_of(entry: Entry) -> bytes:
    payload = _encoder.encode(entry)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def entries_of(raw: bytes) -> Iterator[tuple[int, Entry]]:
    """Each whole entry, and where it ends. Stops at the first that is torn."""
    at = 0
    while at + _HEAD.size <= len(raw):
        length, checksum = _HEAD.unpack_from(raw, at)
        payload = raw[at + _HEAD.size : at + _HEAD.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        at += _HEAD.size + length
        yield at, _decoder.decode(payload)
