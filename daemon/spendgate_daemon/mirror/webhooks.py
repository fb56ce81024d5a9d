"""Webhooks from UsageBox: a verified one queues a fetch and says nothing itself.

So it can't say anything wrong: one that is repeated, late or out of order costs a fetch at most, which is of what is true by
then. Signed as the Standard Webhooks specification says (https://www.standardwebhooks.com), with any of the secrets, and
not more than five minutes ago. Ids are remembered per process: another process fetches once more.
"""

from __future__ import annotations

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


class _Kind(msgspec.Struct):
    type: str


class WebhookReceiver:
    """`secrets` as the sender shows them, `whsec_...`; each is taken, so that one can replace another without a gap."""

    def __init__(self, secrets: tuple[str, ...], control: Control) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]
        self._control = control
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def accept(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """The customer whose fetch it asks for; None for a repeated delivery or a type that is not about policy.
        Raises WebhookRefused."""
        try:
            customer_id = self._read(dict(headers), body)
        except (WebhookVerificationError, msgspec.MsgspecError, InvalidEvent) as exc:
            WEBHOOKS.labels("refused").inc()
            raise WebhookRefused("the webhook's signature or body is not valid") from exc
        message_id = headers["webhook-id"]
        if customer_id is None or message_id in self._seen:
            WEBHOOKS.labels("ignored").inc()
            return None
        queued = await self._control.hint(customer_id)
        self._seen[message_id] = None
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        WEBHOOKS.labels("accepted" if queued else "shed").inc()
        return customer_id

    def _read(self, headers: dict[str, str], body: bytes) -> str | None:
        """The customer of a verified body; None when it is of another type than ours, whatever it holds."""
        self._verify(headers, body)
        if msgspec.json.decode(body, type=_Kind).type not in WEBHOOK_TYPES:
            return None
        customer_id = msgspec.json.decode(body, type=_Payload).data.customer_id
        check_id("data.customer_id", customer_id)
        return customer_id

    def _verify(self, headers: dict[str, str], body: bytes) -> None:
        """Raises WebhookVerificationError unless one of the secrets has signed it."""
        for webhook in self._webhooks:
            try:
                webhook.verify(body, headers, json_parse=False)
            except (WebhookVerificationError, ValueError):
                continue  # the library raises ValueErrors of several kinds on malformed signatures
            return
        raise WebhookVerificationError("No secret matches")
