"""Flags in the words of OFREP 0.3.0 (https://github.com/open-feature/protocol, service/openapi.yaml). Pure.

`value` and `variant` are always sent: one client fails without the one, another without the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from spendgate_flags.derive import Flag


class Evaluation(msgspec.Struct, frozen=True):
    """An answer: HTTP status, JSON body (empty for 304), and the ETag of a bulk answer."""

    status: int
    body: bytes
    etag: str | None = None


def targeting_key_of(body: Any) -> str | None:
    """`context.targetingKey` of a request; None when it is missing or no text."""
    context = body.get("context") if isinstance(body, dict) else None
    key = context.get("targetingKey") if isinstance(context, dict) else None
    return key if isinstance(key, str) and key else None


def evaluate_one(flags: Mapping[str, Flag], key: str) -> Evaluation:
    """`POST /ofrep/v1/evaluate/flags/{key}`."""
    flag = flags.get(key)
    if flag is None:
        return error(404, "FLAG_NOT_FOUND", f"there is no flag {key!r}", key=key)
    return Evaluation(200, _encode(_answer(flag)))


def evaluate_all(flags: Mapping[str, Flag], context: Any, if_none_match: str | None) -> Evaluation:
    """`POST /ofrep/v1/evaluate/flags`. The ETag covers the values and the context, not the moment they were read: what
    only tells time changes nothing for a client."""
    values = [[flag.key, flag.value, flag.variant, flag.reason] for flag in flags.values()]
    etag = f'"{hashlib.sha256(_encode([values, context])).hexdigest()[:32]}"'
    if if_none_match is not None and etag in (part.strip() for part in if_none_match.split(",")):
        return Evaluation(304, b"", etag)
    return Evaluation(200, _encode({"flags": [_answer(flag) for flag in flags.values()]}), etag)


def error(status: int, code: str, details: str, *, key: str | None = None) -> Evaluation:
    """An evaluation failure: `code` as in the specification, `details` for people."""
    body = {"errorCode": code, "errorDetails": details}
    return Evaluation(status, _encode(body | ({"key": key} if key is not None else {})))


def _answer(flag: Flag) -> dict[str, Any]:
    return {
        "key": flag.key,
        "value": flag.value,
        "reason": flag.reason,
        "variant": flag.variant,
        "metadata": flag.metadata,
    }


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
