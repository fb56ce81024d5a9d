"""Subscriptions of the catalog. How it pages is not documented: a `next_cursor`, or a `next` link, is followed if there is one."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from spendgate_daemon.usagebox.errors import UsageBoxUnavailable
from spendgate_daemon.usagebox.values import Subscription

SUBSCRIPTIONS_PATH: Final = "/api/v1/subscriptions"


def decode_subscriptions(body: bytes) -> tuple[list[Subscription], dict[str, str] | None]:
    """One page, and the query of the next one; None: it was the last. A link's host and path are not followed, so our key
    never goes anywhere else."""
    try:
        decoded: Any = msgspec.json.decode(body)
        if isinstance(decoded, list):
            return msgspec.convert(decoded, list[Subscription]), None
        items = decoded["subscriptions"] if "subscriptions" in decoded else decoded["data"]
        found = msgspec.convert(items, list[Subscription])
        cursor, link = decoded.get("next_cursor"), decoded.get("next")
        if cursor:
            return found, {"cursor": str(cursor)}
        return found, dict(parse_qsl(urlsplit(str(link)).query)) if link else None
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError, ValueError) as exc:
        raise UsageBoxUnavailable(f"UsageBox answered subscriptions that make no sense: {exc!r}") from exc
