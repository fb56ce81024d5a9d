"""Every operation of the API: what it needs, what it takes, what it gives."""

from __future__ import annotations

from typing import Final

import msgspec

from spendgate.calls import MAX_LIFETIME_SECONDS
from spendgate.event import MAX_ID_BYTES
from spendgate_daemon.api.decisions import MAX_BATCH
from spendgate_daemon.api.openapi.schemas import ID, OUTCOME, STATE
from spendgate_daemon.api.openapi.shapes import (
    ANYTHING,
    BOOLEAN,
    INSTANT,
    TEXT,
    WHOLE,
    Shape,
    answer,
    known,
    listed,
    mapped,
    nullable,
    one_of,
    request,
    text,
    whole,
)
from spendgate_daemon.api.routes.customer_usage import STEPS
from spendgate_daemon.api.routes.dead_letters import STATES as DEAD_STATES
from spendgate_daemon.api.routes.guardrail_events import KINDS
from spendgate_daemon.api.routes.overrides import MAX_REASON
from spendgate_daemon.api.routes.query import MAX_PAGE, MAX_TEXT
from spendgate_daemon.api.routes.sessions import MAX_PRINCIPAL
from spendgate_daemon.overrides import MIN_REASON
from spendgate_daemon.store.sources import SINKS

JSON: Final = "application/json"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`scope` None: no key; empty: any key. `answers` by status; a shape of None is an answer without a body."""

    method: str
    path: str
    name: str
    summary: str
    scope: str | None
    query: dict[str, Shape] = {}
    headers: dict[str, str] = {}
    body: Shape | None = None
    body_required: bool = True
    answers: dict[str, Shape | None]
    content_type: str = JSON


_ANY: Final = text(0, MAX_TEXT)
_PAGING: Final = {"cursor": _ANY, "limit": whole(1, MAX_PAGE)}
_EVENT_HEADERS: Final = {
    "Idempotency-Key": f"Serves as event_id where the body has none; 1 to {MAX_ID_BYTES} bytes.",
    "traceparent": "W3C trace context; it is kept with the decision.",
}
_GATEWAY: Final = {"Prefer": "`status=gateway`: the outcome as the status, 402, 403 or 429."}
_DECISION: Final = known("Decision")
_EVENT: Final = known("UsageEvent")
_CONTEXT: Final[Shape] = {
    "type": "object",
    "required": ["context"],
    "properties": {
        "context": {"type": "object", "required": ["targetingKey"], "properties": {"targetingKey": ID}},
    },
}
_OFREP_FAILURE: Final = answer(errorCode=TEXT, errorDetails=TEXT)

DECISIONS: Final = (
    Operation(
        method="post",
        path="/v1/decisions",
        name="decide",
        summary="Decide one event, before the work is done",
        scope="decide",
        headers=_EVENT_HEADERS | _GATEWAY,
        body=_EVENT,
        answers={"200": _DECISION, "402": _DECISION, "403": _DECISION, "429": _DECISION},
    ),
    Operation(
        method="post",
        path="/v1/decisions/batch",
        name="decideBatch",
        summary="Decide independent events",
        scope="decide",
        body=request("events", events=listed(_EVENT) | {"minItems": 1, "maxItems": MAX_BATCH}),
        answers={"200": answer(results=listed(answer(status=whole(200, 599))))},
    ),
    Operation(
        method="post",
        path="/v1/usage",
        name="recordUsage",
        summary="Record usage that already happened; it is never denied",
        scope="usage",
        headers=_EVENT_HEADERS,
        body=_EVENT,
        answers={"200": _DECISION},
    ),
    Operation(
        method="get",
        path="/v1/decisions",
        name="listDecisions",
        summary="Decisions, newest first",
        scope="read",
        query=_PAGING | {"customer_id": _ANY, "outcome": OUTCOME, "reason": _ANY, "from": INSTANT, "to": INSTANT},
        answers={"200": known("Decisions")},
    ),
    Operation(
        method="get",
        path="/v1/decisions/{decision_id}",
        name="getDecision",
        summary="One decision, computed again from its stored inputs",
        scope="read",
        answers={"200": known("StoredDecision")},
    ),
    Operation(
        method="post",
        path="/v1/decisions/{decision_id}/corrections",
        name="correctDecision",
        summary="Put right what was committed under a decision; the original stays",
        scope="admin",
        headers={"Idempotency-Key": "A repeated request with the same key makes one correction."},
        body=known("NewCorrection"),
        answers={"201": known("MadeCorrection"), "200": known("MadeCorrection")},
    ),
    Operation(
        method="get",
        path="/v1/decisions/{decision_id}/corrections",
        name="listCorrections",
        summary="Corrections of a decision, the oldest first",
        scope="read",
        answers={"200": known("Corrections")},
    ),
)

_FINISHED: Final = known("FinishedReservation")

RESERVATIONS: Final = (
    Operation(
        method="post",
        path="/v1/reservations",
        name="reserve",
        summary="Decide one event and hold its quantities until it is known what was really used",
        scope="decide",
        headers=_EVENT_HEADERS | _GATEWAY,
        body=known("NewReservation"),
        answers=dict.fromkeys(("200", "402", "403", "429"), known("ReservationDecision")),
    ),
    Operation(
        method="post",
        path="/v1/reservations/{reservation_id}/commit",
        name="commitReservation",
        summary="Debit what was really used and free the rest; the same commit again gives the same answer",
        scope="decide",
        body=known("Commit"),
        answers={"200": _FINISHED},
    ),
    Operation(
        method="post",
        path="/v1/reservations/{reservation_id}/release",
        name="releaseReservation",
        summary="Free all of it: nothing was used",
        scope="decide",
        body=request(),
        body_required=False,
        answers={"200": _FINISHED},
    ),
    Operation(
        method="post",
        path="/v1/reservations/{reservation_id}/extend",
        name="extendReservation",
        summary="Move the deadline to so many seconds from now, if that is later",
        scope="decide",
        body=request("seconds", seconds=whole(1, MAX_LIFETIME_SECONDS)),
        answers={"200": _FINISHED},
    ),
    Operation(
        method="get",
        path="/v1/customers/{customer_id}/reservations",
        name="listReservations",
        summary="A customer's open reservations, the first to end first",
        scope="read",
        answers={"200": known("OpenReservations")},
    ),
)

CUSTOMERS: Final = (
    Operation(
        method="get",
        path="/v1/customers",
        name="listCustomers",
        summary="Customers, the first to run out first",
        scope="read",
        query=_PAGING | {"state": STATE, "plan": _ANY, "q": _ANY, "sort": one_of("exhaustion", "name")},
        answers={"200": known("Customers")},
    ),
    Operation(
        method="get",
        path="/v1/customers/{customer_id}",
        name="getCustomer",
        summary="One customer: state, limits, burn, forecast, flags, overrides",
        scope="read",
        answers={"200": known("Customer")},
    ),
    Operation(
        method="get",
        path="/v1/customers/{customer_id}/usage",
        name="getUsage",
        summary="A customer's usage of one meter over time",
        scope="read",
        query={"meter": ID, "from": INSTANT, "to": INSTANT, "step": one_of(*STEPS)},
        answers={"200": known("Usage")},
    ),
    Operation(
        method="put",
        path="/v1/customers/{customer_id}",
        name="putCustomer",
        summary="Set a customer's terms without UsageBox",
        scope="admin",
        body=known("CustomerTerms"),
        answers={"200": known("CustomerRow")},
    ),
)

OVERRIDES: Final = (
    Operation(
        method="post",
        path="/v1/overrides",
        name="createOverride",
        summary="Let a customer pass, or stop one, for a reason and until an instant",
        scope="override",
        headers={"Idempotency-Key": "A repeated request with the same key makes one override."},
        body=known("NewOverride"),
        answers={"201": known("Override"), "200": known("Override")},
    ),
    Operation(
        method="get",
        path="/v1/overrides",
        name="listOverrides",
        summary="Overrides, newest first",
        scope="read",
        query={"customer_id": _ANY, "active": one_of("true", "false"), "limit": whole(1, MAX_PAGE)},
        answers={"200": known("Overrides")},
    ),
    Operation(
        method="delete",
        path="/v1/overrides/{override_id}",
        name="revokeOverride",
        summary="End an override now",
        scope="override",
        body=request(reason=nullable(text(1, MAX_REASON))),
        body_required=False,
        answers={"200": known("Override")},
    ),
)

SIGNING_IN: Final = (
    Operation(
        method="post",
        path="/v1/sign-in-links",
        name="createSignInLink",
        summary="A one-time token for signing in",
        scope="admin",
        body=request(principal=text(1, MAX_PRINCIPAL), admin=BOOLEAN),
        body_required=False,
        answers={"201": answer(token=TEXT, expires_at=INSTANT)},
    ),
    Operation(
        method="post",
        path="/v1/sessions",
        name="createSession",
        summary="Exchange a one-time token for a session key",
        scope=None,
        body=request("token", token=text(1, 128)),
        answers={"201": answer(key=TEXT, principal=TEXT, scopes=listed(TEXT), expires_at=INSTANT)},
    ),
    Operation(
        method="get",
        path="/v1/me",
        name="getPrincipal",
        summary="Who the key is",
        scope="",
        answers={"200": answer(principal=TEXT, scopes=listed(TEXT), customer_id=nullable(TEXT))},
    ),
)

FLAGS: Final = (
    Operation(
        method="post",
        path="/ofrep/v1/evaluate/flags",
        name="evaluateFlags",
        summary="OFREP: all flags of a customer",
        scope="flags",
        headers={"If-None-Match": "The ETag of an answer to the same context."},
        body=_CONTEXT,
        answers={"200": answer(flags=listed(known("Evaluation"))), "304": None, "400": _OFREP_FAILURE},
    ),
    Operation(
        method="post",
        path="/ofrep/v1/evaluate/flags/{key}",
        name="evaluateFlag",
        summary="OFREP: one flag of a customer",
        scope="flags",
        body=_CONTEXT,
        answers={"200": known("Evaluation"), "400": _OFREP_FAILURE, "404": _OFREP_FAILURE},
    ),
    Operation(
        method="get",
        path="/flagd/flags.json",
        name="getFlagdDefinition",
        summary="The definition that flagd polls",
        scope="flags",
        headers={"If-None-Match": "The ETag of an earlier answer."},
        answers={"200": mapped(ANYTHING), "304": None},
    ),
)

_RETRIED: Final = answer(sink=one_of(*SINKS), retried=WHOLE)

OPERATING: Final = (
    Operation(
        method="get",
        path="/v1/guardrail-events",
        name="listGuardrailEvents",
        summary="Changes of enforcement, newest first",
        scope="read",
        query=_PAGING | {"customer_id": _ANY, "kind": one_of(*KINDS)},
        answers={"200": known("GuardrailEvents")},
    ),
    Operation(
        method="get",
        path="/v1/repairs",
        name="listRepairs",
        summary="Repairs of what counters held for reservations, newest first",
        scope="read",
        query=_PAGING | {"customer_id": _ANY},
        answers={"200": known("Repairs")},
    ),
    Operation(
        method="get",
        path="/v1/repairs/{decision_id}",
        name="getRepair",
        summary="One repair, and who was denied because of what it put right",
        scope="read",
        answers={"200": known("Repair")},
    ),
    Operation(
        method="get",
        path="/v1/books",
        name="listBooks",
        summary="What was enforced, recorded and billed, as last compared",
        scope="read",
        query=_PAGING | {"customer_id": _ANY, "differs": one_of("true", "false")},
        answers={"200": known("Books")},
    ),
    Operation(
        method="post",
        path="/v1/books/reconcile",
        name="reconcile",
        summary="Compare a customer's books now, and put right what may be",
        scope="admin",
        body=known("ReconcileRequest"),
        answers={"200": known("Reconciled")},
    ),
    Operation(
        method="get",
        path="/v1/summary",
        name="getSummary",
        summary="What a screen opens with",
        scope="read",
        answers={"200": known("Summary")},
    ),
    Operation(
        method="get",
        path="/v1/sync",
        name="getSync",
        summary="State of mirror and relays",
        scope="read",
        answers={"200": known("Sync")},
    ),
    Operation(
        method="get",
        path="/v1/dead-letters",
        name="listDeadLetters",
        summary="What a sink refused for good, the newest events first",
        scope="read",
        query=_PAGING | {"sink": one_of(*SINKS), "state": one_of(*DEAD_STATES)},
        answers={"200": known("DeadLetters")},
    ),
    Operation(
        method="post",
        path="/v1/dead-letters/{sink}/retry",
        name="retryDeadLetters",
        summary="Try all dead letters of a sink again",
        scope="admin",
        answers={"200": _RETRIED},
    ),
    Operation(
        method="post",
        path="/v1/dead-letters/{sink}/{position}/retry",
        name="retryDeadLetter",
        summary="Try one dead letter again",
        scope="admin",
        answers={"200": _RETRIED},
    ),
    Operation(
        method="post",
        path="/v1/dead-letters/{sink}/{position}/discard",
        name="discardDeadLetter",
        summary="Give a dead letter up for a reason: the sink never gets it; a guardrail event tells who did it",
        scope="admin",
        body=request("reason", reason=text(MIN_REASON, MAX_REASON)),
        answers={"200": known("DeadLetter")},
    ),
    Operation(
        method="post",
        path="/webhooks/usagebox",
        name="receiveWebhook",
        summary="Webhooks of UsageBox, by Standard Webhooks signature",
        scope=None,
        headers={"webhook-id": "", "webhook-timestamp": "", "webhook-signature": ""},
        body=mapped(ANYTHING),
        answers={"204": None},
    ),
    Operation(
        method="get",
        path="/healthz",
        name="getHealth",
        summary="This process lives",
        scope=None,
        answers={"200": answer(status=TEXT)},
    ),
    Operation(
        method="get",
        path="/readyz",
        name="getReadiness",
        summary="Whether it could decide now, or what is missing",
        scope=None,
        answers={"200": answer(status=TEXT, checks=mapped(TEXT)), "503": answer(status=TEXT, checks=mapped(TEXT))},
    ),
    Operation(
        method="get",
        path="/metrics",
        name="getMetrics",
        summary="Prometheus metrics",
        scope="read",
        content_type="text/plain",
        answers={"200": TEXT},
    ),
    Operation(
        method="get",
        path="/schema/openapi.json",
        name="getSchema",
        summary="This document; at /schema, too",
        scope="",
        answers={"200": mapped(ANYTHING)},
    ),
)

OPERATIONS: Final = (*DECISIONS, *RESERVATIONS, *CUSTOMERS, *OVERRIDES, *SIGNING_IN, *FLAGS, *OPERATING)
