"""Webhooks from UsageBox: a verified one queues a fetch and says nothing itself.

Anything but a good signature is refused: the verifying library raises several kinds of errors on malformed input.
"""

from __future__ import annotations

import binascii
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from spendgate.control import Control
from spendgate.errors import InvalidEvent
from spendgate.event import check_id
from spendgate_daemon.mirror.metrics import WEBHOOKS
from spendgate_daemon.usagebox.policies import WEBHOOK_TYPES

REMEMBERED: Final = 10_000


class WebhookRefused(Exception):
    """No valid signature, or a body that is not what the signature's owner sends."""


class _Data(msgspec.Struct):
    customer_id: str


class _Payload(msgspec.Struct):
    type: str
    data: _Data


class WebhookReceiver:
    """`secret` as the sender shows it, `whsec_...`."""

    def __init__(self, secret: str, control: Control) -> None:
        self._webhook = Webhook(secret)
        self._control = control
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def accept(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """The customer a fetch was queued for; None for a repeated delivery or a type that is not about policy.
        Raises WebhookRefused."""
        try:
            self._webhook.verify(body, dict(headers))
            payload = msgspec.json.decode(body, type=_Payload)
            check_id("data.customer_id", payload.data.customer_id)
        except (
            WebhookVerificationError,
            ValueError,
            binascii.Error,
            KeyError,
            msgspec.MsgspecError,
            InvalidEvent,
        ) as exc:
            WEBHOOKS.labels("refused").inc()
            raise WebhookRefused("the webhook's signature or body is not valid") from exc
        message_id = headers.get("webhook-id", "")
        if message_id in self._seen or payload.type not in WEBHOOK_TYPES:
            WEBHOOKS.labels("ignored").inc()
            return None
        await self._control.hint(payload.data.customer_id)
        self._seen[message_id] = None
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        WEBHOOKS.labels("accepted").inc()
        return payload.data.customer_id
