"""The usage event: what an application asks the gate about.

Validation is complete here, before anything is sent: whatever passes is safe to pack for Lua, whose numbers lose
precision above 2^53 and whose `tonumber` accepts hexadecimal and exponents. The script validates again what it
computes with.
"""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict

import msgspec

from spendgate.errors import InvalidEvent

MAX_QUANTITY: Final = 10**12
MAX_NUMBER: Final = 9 * 10**15
MAX_ID_BYTES: Final = 256
MAX_METERS: Final = 16
MAX_METADATA_KEYS: Final = 32
MAX_METADATA_KEY_BYTES: Final = 64
MAX_METADATA_VALUE_BYTES: Final = 1024

MetadataValue = str | int | float | bool | None

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encoder = msgspec.msgpack.Encoder(order="sorted")


class UsageEvent(msgspec.Struct, frozen=True, array_like=True):
    """One event, validated. `quantities` maps meters to whole base units; `event_id` is unique per customer;
    `retry_safe` is False when the id was made here because the caller gave none; `occurred_at_us` is data and
    selects no window. The order of the fields is that of the encoding; the script reads the first two."""

    quantities: dict[str, int]
    metadata: dict[str, MetadataValue]
    customer_id: str
    event_id: str
    occurred_at_us: int | None = None
    traceparent: str | None = None
    retry_safe: bool = True

    @property
    def units(self) -> int:
        """Sum of all quantities, the measure of a let-pass override."""
        return sum(self.quantities.values())

    @property
    def model(self) -> str | None:
        """`metadata.model`, when it is text."""
        value = self.metadata.get("model")
        return value if isinstance(value, str) else None

    def encode(self) -> bytes:
        """MessagePack as the Redis script reads it."""
        return _encoder.encode(self)

    def fingerprint(self, *, reserved: bool = False) -> bytes:
        """6 bytes over what a retry must repeat: quantities and metadata, not tracing headers or times; and that it
        reserves, if it does."""
        content = _encoder.encode((self.quantities, self.metadata, reserved))
        return hashlib.blake2b(content, digest_size=6).digest()

    def identity(self) -> bytes:
        """12 bytes that name (customer_id, event_id) in the memory of allowed events."""
        content = _encoder.encode((self.customer_id, self.event_id))
        return hashlib.blake2b(content, digest_size=12).digest()


class EventFields(TypedDict, total=False):
    """What `usage_event` takes beside customer, meter and quantity."""

    quantities: Mapping[str, int] | None
    """Meter to quantity, for several meters that are debited all or none; then `meter` and `quantity` are left out."""

    event_id: str | None
    """Unique per customer. None makes a random one, and the answer says that a retry is not safe."""

    metadata: Mapping[str, MetadataValue] | None
    """Flat. Limits may look at it, and weights at its `model`."""

    occurred_at: datetime | None
    """With its time zone. Data: it selects no period."""

    traceparent: str | None
    """W3C Trace Context. One that is not shaped as its version 00 is dropped, as that specification asks."""


def usage_event(
    customer_id: str,
    meter: str | None = None,
    quantity: int | None = None,
    *,
    quantities: Mapping[str, int] | None = None,
    event_id: str | None = None,
    metadata: Mapping[str, MetadataValue] | None = None,
    occurred_at: datetime | None = None,
    traceparent: str | None = None,
) -> UsageEvent:
    """Build a validated event from either `meter` and `quantity`, or `quantities`; see `EventFields`.

    Quantities are whole numbers from 1 to 10^12. Raises InvalidEvent naming the field.
    """
    check_id("customer_id", customer_id)
    if event_id is not None:
        check_id("event_id", event_id)
    if quantities is not None:
        if meter is not None or quantity is not None:
            raise InvalidEvent("quantities", "absent when meter and quantity are given")
        checked = _check_quantities(quantities)
    else:
        check_id("meter", meter)
        checked = {str(meter): _check_quantity("quantity", quantity)}
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None
    return UsageEvent(
        customer_id=customer_id,
        event_id=event_id if event_id is not None else str(uuid.uuid4()),
        quantities=checked,
        metadata=_check_metadata(metadata),
        occurred_at_us=_check_instant(occurred_at),
        traceparent=traceparent,
        retry_safe=event_id is not None,
    )


def check_id(field: str, value: object) -> None:
    """Raise InvalidEvent unless `value` is text of 1 to 256 bytes without control characters."""
    if type(value) is str and 0 < len(value) <= MAX_ID_BYTES and value.isascii() and value.isprintable():
        return  # nearly every id
    expected = f"text of 1 to {MAX_ID_BYTES} bytes without control characters"
    if not isinstance(value, str) or not value or len(value) > MAX_ID_BYTES:
        raise InvalidEvent(field, expected)
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError as exc:
        raise InvalidEvent(field, "valid Unicode text, without lone surrogates") from exc
    if size_bytes > MAX_ID_BYTES or (not value.isprintable() and any(ord(c) < 32 or ord(c) == 127 for c in value)):
        raise InvalidEvent(field, expected)


def _check_quantities(quantities: object) -> dict[str, int]:
    if not isinstance(quantities, Mapping) or not 1 <= len(quantities) <= MAX_METERS:
        raise InvalidEvent("quantities", f"an object of 1 to {MAX_METERS} meters")
    checked = {}
    for meter, quantity in quantities.items():
        check_id("quantities", meter)
        checked[meter] = _check_quantity(f"quantities.{meter}", quantity)
    return checked


def _check_quantity(field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_QUANTITY:
        raise InvalidEvent(field, f"a whole number from 1 to {MAX_QUANTITY}")
    return value


def _check_metadata(metadata: object) -> dict[str, MetadataValue]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping) or len(metadata) > MAX_METADATA_KEYS:
        raise InvalidEvent("metadata", f"a flat object of at most {MAX_METADATA_KEYS} keys")
    for key, value in metadata.items():
        if not isinstance(key, str) or not key or _size_bytes("metadata", key) > MAX_METADATA_KEY_BYTES:
            raise InvalidEvent("metadata", f"an object with keys of 1 to {MAX_METADATA_KEY_BYTES} bytes")
        _check_metadata_value(key, value)
    return dict(metadata)


def _check_metadata_value(key: str, value: object) -> None:
    if value is None or isinstance(value, bool):
        return
    field = f"metadata.{key}"
    if isinstance(value, str):
        if _size_bytes(field, value) > MAX_METADATA_VALUE_BYTES:
            raise InvalidEvent(field, f"text of at most {MAX_METADATA_VALUE_BYTES} bytes")
    elif isinstance(value, int):
        if abs(value) > MAX_NUMBER:
            raise InvalidEvent(field, f"a number of magnitude at most {MAX_NUMBER}")
    elif isinstance(value, float):
        if not math.isfinite(value) or abs(value) > MAX_NUMBER:
            raise InvalidEvent(field, f"a finite number of magnitude at most {MAX_NUMBER}")
    else:
        raise InvalidEvent(field, "text, a number, a boolean or null (metadata is flat)")


def _size_bytes(field: str, text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidEvent(field, "valid Unicode text, without lone surrogates") from exc


def _check_instant(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidEvent("occurred_at", "an instant with a time zone")
    return (value - _EPOCH) // timedelta(microseconds=1)
