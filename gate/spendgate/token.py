"""Reservation ids: signed, so that a commit after a loss of Redis can still be accepted and recorded.

An id carries what was reserved, for whom and since when; the signature (HMAC-SHA256, 128 bits kept) is this
installation's. It proves that a reservation was given, not that it is still open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from spendgate.errors import UnknownReservation
from spendgate.event import MetadataValue, UsageEvent
from spendgate.policy import EffectivePolicy

PREFIX: Final = "r_"
MAX_ID_CHARACTERS: Final = 16_384
_SIGNATURE_BYTES: Final = 16


class ReservationToken(msgspec.Struct, frozen=True, array_like=True):
    """`stream_id` is the outbox entry that reserved, `effective_at_us` the instant that selects its periods; of the
    metadata only what limits look at is kept."""

    customer_id: str
    event_id: str
    stream_id: str
    effective_at_us: int
    quantities: dict[str, int]
    metadata: dict[str, MetadataValue]

    @property
    def event(self) -> UsageEvent:
        return UsageEvent(self.quantities, self.metadata, self.customer_id, self.event_id)

    def sign(self, secret: bytes) -> str:
        """The reservation id."""
        payload = _encoder.encode(self)
        return PREFIX + base64.urlsafe_b64encode(_signature(payload, secret) + payload).decode().rstrip("=")


def token_of(event: UsageEvent, stream_id: str, effective_at_us: int, policy: EffectivePolicy) -> ReservationToken:
    """The token of a reservation that was just given."""
    looked_at = {"model"}
    for limit in policy.limits:
        looked_at |= {*limit.match, limit.per or "model", getattr(limit, "field", None) or "model"}
    metadata = {field: value for field, value in event.metadata.items() if field in looked_at}
    return ReservationToken(event.customer_id, event.event_id, stream_id, effective_at_us, event.quantities, metadata)


def read_token(reservation_id: str, secret: bytes) -> ReservationToken:
    """Raises UnknownReservation for anything that this installation did not sign."""
    if not isinstance(reservation_id, str) or len(reservation_id) > MAX_ID_CHARACTERS:
        raise UnknownReservation("a reservation id is text of at most 16,384 characters")
    encoded = reservation_id.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if encoded != reservation_id and hmac.compare_digest(signature, _signature(payload, secret)):
            return _decoder.decode(payload)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        pass
    raise UnknownReservation("this is no reservation id of this installation")


def _signature(payload: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, payload, hashlib.sha256).digest()[:_SIGNATURE_BYTES]


_encoder = msgspec.msgpack.Encoder(order="sorted")
_decoder = msgspec.msgpack.Decoder(ReservationToken)
