"""Corrections of what was committed under a decision. Who makes one is the key's principal, never a field."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.params import FromPath

from spendgate.correction import Change
from spendgate.corrector import changes_in
from spendgate.errors import InvalidEvent
from spendgate.event import MAX_QUANTITY, check_id
from spendgate.keys import stream_id_of
from spendgate.reasons import rfc3339
from spendgate.record import decode_record
from spendgate_daemon.api.auth import principal_of
from spendgate_daemon.api.problems import RETRY_SOON, Problem, invalid, not_found
from spendgate_daemon.api.reading import read_object, read_text
from spendgate_daemon.api.routes.overrides import MAX_REASON
from spendgate_daemon.api.services import Services
from spendgate_daemon.corrections import (
    Asked,
    CorrectionConflict,
    Corrections,
    CorrectionsBehind,
    UnknownDecision,
)
from spendgate_daemon.overrides import MIN_REASON
from spendgate_daemon.relays.corrected import correction_of, told
from spendgate_daemon.store import Store
from spendgate_daemon.store.corrections import StoredCorrection

_FIELDS: Final = frozenset({"meter", "quantity", "reason"})


def handlers(services: Services) -> list[Any]:
    store = services.store
    corrections = Corrections(services.control, store)

    @post("/v1/decisions/{decision_id:str}/corrections", opt={"scope": "admin"})
    async def make(request: Request[Any, Any, Any], decision_id: FromPath[str]) -> Response[dict[str, Any]]:
        value = read_object(await request.body(), _FIELDS, "a correction")
        key = request.headers.get("idempotency-key")
        asked = _read(decision_id, value, principal_of(request).name, key)
        try:
            made = await corrections.make(asked)
        except UnknownDecision as exc:
            raise not_found(str(exc)) from exc
        except CorrectionConflict as exc:
            title = "This Idempotency-Key was used before"
            raise Problem(409, "conflict", title, str(exc), field="Idempotency-Key") from exc
        except CorrectionsBehind as exc:
            title = "The last correction is not stored yet"
            raise Problem(409, "corrections-behind", title, str(exc), headers=RETRY_SOON) from exc
        stored = correction_of(made.decision_id, made.record, made.policy)
        if stored is None:
            raise not_found(f"{made.decision_id} is no correction")
        snapshot = await services.gate.snapshot(stored.customer_id)
        answer = correction_row(stored) | {
            "limits": [_change(each) for each in changes_in(made.record, made.policy)],
            "previous_state": made.record.standing.state,
            "customer_state": snapshot.customer_state,
            "repeated": made.repeated,
        }
        return Response(answer, status_code=200 if made.repeated else 201)

    @get("/v1/decisions/{decision_id:str}/corrections", opt={"scope": "read"})
    async def listed(decision_id: FromPath[str]) -> dict[str, Any]:
        found = await asyncio.to_thread(store.decisions.get, decision_id)
        if found is None or stream_id_of(decision_id) is None:
            raise not_found(f"there is no decision {decision_id!r}; a decision is stored within a second of its answer")
        return {"items": await asyncio.to_thread(_listed, store, decision_id), "next_cursor": None}

    return [make, listed]


def correction_row(stored: StoredCorrection) -> dict[str, Any]:
    """A correction as lists and the pages of its decision tell it."""
    return {
        "decision_id": stored.decision_id,
        "corrects": stored.corrects,
        "customer_id": stored.customer_id,
        "meter": stored.meter,
        "unit": stored.unit,
        "before": stored.before,
        "after": stored.after,
        "reason": stored.reason,
        "created_by": stored.actor,
        "created_at": rfc3339(stored.at_us),
        "message": told(stored),
    }


def _listed(store: Store, decision_id: str) -> list[dict[str, Any]]:
    rows = []
    for made in store.corrections.of(decision_id):
        stored = store.decisions.get(made.decision_id)
        policy = store.policies.effective(stored.policy_digest) if stored is not None else None
        if stored is not None and policy is not None:
            changes = changes_in(decode_record(stored.record), policy)
            rows.append(correction_row(made) | {"limits": [_change(each) for each in changes]})
    return rows


def _change(change: Change) -> dict[str, Any]:
    start = change.period_start_seconds
    return {
        "limit_id": change.limit_id,
        "unit": change.unit,
        "period_start": rfc3339(start * 1_000_000) if start is not None else None,
        "value": change.value,
        "before": change.before,
        "after": change.after,
        "counted": change.after is not None,
    }


def _read(decision_id: str, value: dict[str, Any], principal: str, key: str | None) -> Asked:
    meter, quantity = value.get("meter"), value.get("quantity")
    try:
        if "meter" in value:
            check_id("meter", meter)
        if key is not None:
            check_id("Idempotency-Key", key)
    except InvalidEvent as exc:
        raise invalid(exc.field, exc.expected) from exc
    if type(quantity) is not int or not 0 <= quantity <= MAX_QUANTITY:
        raise invalid("quantity", f"a whole number from 0 to {MAX_QUANTITY}: what it really was")
    named = hashlib.sha256(f"{principal}:{key}".encode()).hexdigest()[:32] if key is not None else secrets.token_hex(16)
    return Asked(
        id=f"cor_{named}",
        decision_id=decision_id,
        meter=meter,
        quantity=quantity,
        actor=principal,
        reason=read_text("reason", value.get("reason"), MIN_REASON, MAX_REASON),
    )
