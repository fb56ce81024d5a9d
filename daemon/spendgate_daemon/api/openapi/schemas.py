"""What goes in and comes out, shape by shape."""

from __future__ import annotations

from typing import Final, get_args

from spendgate.calls import MAX_LIFETIME_SECONDS
from spendgate.decide import Mode
from spendgate.event import (
    MAX_ID_BYTES,
    MAX_METADATA_KEYS,
    MAX_METADATA_VALUE_BYTES,
    MAX_METERS,
    MAX_NUMBER,
    MAX_QUANTITY,
)
from spendgate.record import FinishMode
from spendgate.reservation import ReservationStatus
from spendgate_daemon.api.openapi.shapes import (
    BOOLEAN,
    INSTANT,
    NUMBER,
    TEXT,
    WHOLE,
    Shape,
    answer,
    extended,
    known,
    listed,
    mapped,
    nullable,
    one_of,
    page,
    request,
    text,
    whole,
)
from spendgate_daemon.api.routes.customer_terms import MAX_VERSION
from spendgate_daemon.api.routes.customers import STATES
from spendgate_daemon.api.routes.dead_letters import STATES as DEAD_STATES
from spendgate_daemon.api.routes.guardrail_events import KINDS
from spendgate_daemon.api.routes.overrides import MAX_REASON, MAX_UNITS
from spendgate_daemon.books.line import Cause
from spendgate_daemon.mirror.terms import MAX_CAP, MAX_CAPS, MAX_CREDITS, MAX_GRANTS, MAX_PRIORITY, STATUSES
from spendgate_daemon.overrides import MAX_DAYS, MIN_REASON
from spendgate_daemon.store.sources import SINKS

ID: Final = text(1, MAX_ID_BYTES) | {"pattern": r"^[^\x00-\x1f\x7f]+$"}
QUANTITY: Final = whole(1, MAX_QUANTITY)
OUTCOME: Final = one_of("allow", "throttle", "stop")
STATE: Final = one_of(*STATES)
METADATA: Final[Shape] = {
    "type": "object",
    "description": "Flat. `model` selects models' rules and prices; a limit may read a number, such as `context_window`.",
    "maxProperties": MAX_METADATA_KEYS,
    "additionalProperties": {
        "anyOf": [
            text(0, MAX_METADATA_VALUE_BYTES),
            {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
            BOOLEAN,
            {"type": "null"},
        ]
    },
}

_EVENT_FIELDS: Final[dict[str, Shape]] = {
    "event_id": ID
    | {"description": "Unique per customer; makes a retry safe. The header Idempotency-Key serves as well."},
    "customer_id": ID,
    "meter": ID,
    "quantity": QUANTITY,
    "quantities": {
        "type": "object",
        "minProperties": 1,
        "maxProperties": MAX_METERS,
        "additionalProperties": QUANTITY,
    },
    "metadata": METADATA,
    "occurred_at": INSTANT | {"description": "Data: the Redis clock selects the period."},
    "dry_run": BOOLEAN | {"description": "Decide, and change nothing."},
}
_EITHER: Final[Shape] = {
    "description": "Either meter and quantity, or quantities, which are debited all or none.",
    "oneOf": [
        {"required": ["meter", "quantity"], "not": {"required": ["quantities"]}},
        {"required": ["quantities"], "not": {"anyOf": [{"required": ["meter"]}, {"required": ["quantity"]}]}},
    ],
    "examples": [
        {
            "customer_id": "acme",
            "meter": "ai_agent_run",
            "quantity": 1,
            "metadata": {"model": "claude-sonnet-4", "context_window": 90000},
        }
    ],
}
USAGE_EVENT: Final = request("customer_id", **_EVENT_FIELDS) | _EITHER

NEW_RESERVATION: Final = (
    request(
        "customer_id",
        **_EVENT_FIELDS,
        lifetime_seconds=whole(1, MAX_LIFETIME_SECONDS)
        | {"description": "Until its deadline; the plan gives and bounds it where it is left out."},
    )
    | _EITHER
)

_USED: Final = whole(0, MAX_QUANTITY)
COMMIT: Final = request(
    quantity=_USED | {"description": "Of the reservation's only meter."},
    quantities={"type": "object", "maxProperties": MAX_METERS, "additionalProperties": _USED},
) | {
    "description": "What was really used. More than was reserved is debited, capped or refused, as the plan says.",
    "oneOf": [{"required": ["quantity"]}, {"required": ["quantities"]}],
}

LIMIT: Final = answer(
    id=TEXT,
    kind=one_of("quota", "credits", "rate", "concurrency", "per_event"),
    result=one_of("pass", "deny", "not_applicable"),
    mode=one_of("enforce", "shadow"),
    when_exceeded=one_of("stop", "throttle"),
    meters=listed(TEXT),
    unit=TEXT,
    period=nullable(TEXT),
    period_start=nullable(INSTANT),
    period_end=nullable(INSTANT),
    amount=WHOLE,
    used=WHOLE,
    reserved=WHOLE,
    external=WHOLE,
    limit=nullable(WHOLE),
    cap=nullable(WHOLE),
    floor=WHOLE,
    remaining=nullable(WHOLE),
    overage=WHOLE,
    retry_after_seconds=nullable(WHOLE),
    field=nullable(TEXT),
    bypassed=BOOLEAN,
)

_STATUS: Final = one_of(*get_args(ReservationStatus))
_MODE: Final = one_of(*get_args(Mode), *get_args(FinishMode))

RESERVATION: Final = answer(
    status=_STATUS,
    decision_id=nullable(TEXT) | {"description": "The decision that reserved; null in that decision itself."},
    effective_at=INSTANT,
    deadline=nullable(INSTANT),
    actual=mapped(WHOLE),
    committed=mapped(WHOLE),
)

FINISHED_RESERVATION: Final = answer(
    reservation_id=TEXT,
    decision_id=TEXT | {"description": "Names the record of this end, or of this extension."},
    customer_id=TEXT,
    event_id=TEXT,
    status=_STATUS,
    reason=TEXT,
    duplicate=BOOLEAN,
    reserved=mapped(WHOLE),
    actual=mapped(WHOLE),
    committed=mapped(WHOLE),
    effective_at=INSTANT,
    deadline=nullable(INSTANT),
)

OPEN_RESERVATIONS: Final = answer(
    items=listed(
        answer(
            decision_id=TEXT,
            event_id=TEXT,
            quantities=mapped(WHOLE),
            metadata=mapped({}),
            effective_at=INSTANT,
            deadline=INSTANT,
            ends_at=INSTANT,
            overdue=BOOLEAN,
        )
    ),
    total=WHOLE,
    as_of=INSTANT,
)

DECISION: Final = answer(
    decision=OUTCOME,
    decision_id=nullable(TEXT)
    | {"description": "Null for a dry run, which is not kept, and for a degraded answer until it is settled."},
    event_id=TEXT,
    retry_safe=BOOLEAN,
    duplicate=BOOLEAN,
    dry_run=BOOLEAN,
    degraded=BOOLEAN | {"description": "Answered without Redis, by the outage rule; settled when it is back."},
    overshoot_bound=mapped(WHOLE)
    | {
        "description": "When degraded, or behind a mirror older than `max_staleness`: the most units that can pass beyond "
        "each limit of the event, by all processes. Empty otherwise."
    },
    customer_id=TEXT,
    customer_state=STATE,
    reason=answer(code=TEXT, message=TEXT),
    effective_at=INSTANT,
    retry_after_seconds=nullable(WHOLE),
    unblock=nullable(
        answer(message=TEXT, limit_id=nullable(TEXT), short=WHOLE, unit=TEXT, resets_at=nullable(INSTANT))
    ),
    policy=answer(
        plan=nullable(TEXT),
        status=TEXT,
        digest=TEXT,
        version=nullable(WHOLE),
        source=nullable(TEXT),
        as_of=nullable(INSTANT),
        mirror_age_seconds=nullable(NUMBER),
        credit_balance_micro=nullable(WHOLE),
        contractual_caps=mapped(WHOLE),
    ),
    reservation=nullable(known("Reservation")),
    decision_trace=answer(
        engine=WHOLE,
        policy_digest=TEXT,
        clock=INSTANT,
        mode=_MODE,
        event=answer(event_id=TEXT, customer_id=TEXT, quantities=mapped(WHOLE), metadata=mapped({})),
        previous_state=STATE,
        customer_state=STATE,
        deciding_limit=nullable(TEXT),
        override_id=nullable(TEXT),
        traceparent=nullable(TEXT),
        limits=listed(known("Limit")),
    ),
)

DECISION_ROW: Final = answer(
    decision_id=TEXT,
    kind=TEXT,
    at=INSTANT,
    customer_id=TEXT,
    customer_name=TEXT,
    outcome=OUTCOME,
    reason=TEXT,
    message=TEXT,
    limit_id=nullable(TEXT),
    quantities=mapped(WHOLE),
    mode=_MODE,
    count=WHOLE,
    mismatch=BOOLEAN,
)

_DELIVERY: Final = answer(
    sink=TEXT,
    item_id=TEXT,
    state=one_of("pending", "attempted", "delivered", "dead", "discarded"),
    attempts=nullable(WHOLE),
    error=nullable(TEXT),
    correction_id=nullable(TEXT),
)

NEW_CORRECTION: Final = request(
    "quantity",
    "reason",
    meter=text(1, MAX_ID_BYTES) | {"description": "Of the decision; left out where it has only one."},
    quantity=whole(0, MAX_QUANTITY) | {"description": "What it really was; 0 voids it."},
    reason=text(MIN_REASON, MAX_REASON),
)

CORRECTION_ROW: Final = answer(
    decision_id=TEXT | {"description": "Names the correction's own record."},
    corrects=TEXT | {"description": "The original decision."},
    customer_id=TEXT,
    meter=TEXT,
    unit=TEXT,
    before=WHOLE | {"description": "What counted until then, after earlier corrections."},
    after=WHOLE,
    reason=TEXT,
    created_by=TEXT,
    created_at=INSTANT,
    message=TEXT,
)

CORRECTION: Final = extended(
    "CorrectionRow",
    limits=listed(
        answer(
            limit_id=TEXT,
            unit=TEXT,
            period_start=nullable(INSTANT) | {"description": "Null for a wallet, which has no periods."},
            value=nullable(TEXT),
            before=nullable(WHOLE),
            after=nullable(WHOLE),
            counted=BOOLEAN
            | {"description": "False: the counter of that period is kept no longer, so only the books changed."},
        )
    ),
)

STORED_DECISION: Final[Shape] = {
    "allOf": [
        {"anyOf": [known("Decision"), known("DecisionRow")]},
        answer(
            customer_name=TEXT,
            kind=TEXT,
            count=WHOLE,
            verified=nullable(BOOLEAN),
            mismatch=BOOLEAN,
            deliveries=listed(_DELIVERY),
            end=nullable(extended("Reservation", decision_id=TEXT, at=INSTANT, reason=TEXT)),
            corrections=listed(known("CorrectionRow")),
        ),
    ],
    "description": "The answer again, computed from the stored inputs; counted denials and ends of reservations are told "
    "as in the list.",
}

CUSTOMER_ROW: Final = answer(
    customer_id=TEXT,
    name=TEXT,
    plan=TEXT,
    status=TEXT,
    state=STATE,
    tightest_limit=nullable(answer(id=TEXT, unit=TEXT, used=WHOLE, limit=WHOLE, used_percent=WHOLE)),
    burn_per_hour=nullable(answer(meter=TEXT, unit=TEXT, quantity=WHOLE)),
    exhausts_at=nullable(INSTANT),
    updated_at=INSTANT,
)

CUSTOMER: Final = extended(
    "CustomerRow",
    policy=answer(
        digest=TEXT,
        document=TEXT,
        version=WHOLE,
        source=TEXT,
        updated_at=INSTANT,
        contractual_caps=mapped(WHOLE),
        timezone=nullable(TEXT),
        billing_anchor_day=nullable(WHOLE),
        grants=listed(answer(id=TEXT, credits=WHOLE, expires_at=nullable(INSTANT), priority=WHOLE)),
    ),
    limits=listed(extended("Limit", burn_per_hour=nullable(WHOLE), exhausts_at=nullable(INSTANT))),
    overrides=listed(known("Override")),
    flags=mapped(answer(value={}, variant=TEXT, reason=TEXT)),
    state_since=nullable(INSTANT),
    until=nullable(INSTANT),
    sentence=TEXT,
    provenance=listed(
        answer(number=TEXT, source=TEXT, version=nullable(TEXT), as_of=nullable(INSTANT), age_seconds=nullable(NUMBER))
    ),
    as_of=INSTANT,
)

GRANT: Final = request(
    "id",
    "credits",
    id=ID,
    credits=whole(0, MAX_CREDITS),
    expires_at=nullable(INSTANT) | {"description": "From 1970 to 2200; left out, the grant never ends."},
    priority=whole(-MAX_PRIORITY, MAX_PRIORITY) | {"description": "The lowest burns first; 0 where it is left out."},
)

CUSTOMER_TERMS: Final = request(
    "plan",
    name=nullable(ID),
    plan=ID,
    status=one_of(*STATUSES),
    caps=mapped(whole(0, MAX_CAP)) | {"maxProperties": MAX_CAPS},
    credits_granted_total=nullable(whole(0, MAX_CREDITS)) | {"description": "All that was ever granted, without end."},
    timezone=nullable(text(1, 64)) | {"description": "IANA zone, for limits with `timezone: contract`."},
    billing_anchor_day=nullable(whole(1, 31)) | {"description": "For limits with `anchor_day: contract`."},
    grants=listed(GRANT) | {"maxItems": MAX_GRANTS, "description": "On top of credits_granted_total; ids are unique."},
    version=nullable(whole(0, MAX_VERSION)) | {"description": "The stored one plus one where it is left out."},
)

USAGE: Final = answer(
    customer_id=TEXT,
    meter=TEXT,
    unit=TEXT,
    step=one_of("minute", "hour", "day"),
    points=listed(answer(at=INSTANT, used=WHOLE, external=WHOLE, denied_decisions=WHOLE)),
) | {"properties": {"from": INSTANT, "to": INSTANT}}

NEW_OVERRIDE: Final = request(
    "customer_id",
    "kind",
    "reason",
    "expires_at",
    customer_id=ID,
    kind=one_of("let_pass", "stop"),
    max_units=whole(1, MAX_UNITS) | {"description": "For let_pass, which needs it; sum over all meters."},
    bypass=listed(TEXT) | {"minItems": 1, "maxItems": 64, "description": "For let_pass: limit ids, or *, the default."},
    reason=text(MIN_REASON, MAX_REASON),
    expires_at=INSTANT | {"description": f"In the future, by at most {MAX_DAYS} days."},
    paid_by=one_of("customer", "goodwill"),
)

OVERRIDE: Final = answer(
    id=TEXT,
    customer_id=TEXT,
    kind=one_of("let_pass", "stop"),
    max_units=nullable(WHOLE),
    units_used=nullable(WHOLE),
    bypass=listed(TEXT),
    reason=TEXT,
    paid_by=one_of("customer", "goodwill"),
    created_by=TEXT,
    created_at=INSTANT,
    expires_at=INSTANT,
    revoked_at=nullable(INSTANT),
    revoked_by=nullable(TEXT),
    active=BOOLEAN,
)

GUARDRAIL_EVENT: Final = answer(
    id=TEXT,
    at=INSTANT,
    customer_id=TEXT,
    customer_name=TEXT,
    kind=one_of(*KINDS),
    limit_id=nullable(TEXT),
    from_state=nullable(TEXT),
    to_state=nullable(TEXT),
    decision_id=nullable(TEXT),
    override_id=nullable(TEXT),
    message=TEXT,
)

REPAIR_ROW: Final = answer(
    decision_id=TEXT,
    at=INSTANT,
    customer_id=TEXT,
    customer_name=TEXT,
    counters=listed(
        answer(
            kind=one_of("quota", "credits", "concurrency", "used"),
            limit_id=TEXT,
            period_start=nullable(INSTANT),
            value=nullable(TEXT),
            unit=TEXT,
            before=WHOLE,
            after=WHOLE,
        )
    ),
    calendar=BOOLEAN | {"description": "A reservation had lost its end, or the sweep would not have come by."},
)

_REPAIR_EVENT: Final = {"decision_id": TEXT, "at": INSTANT, "event_id": TEXT, "quantities": mapped(WHOLE)}

REPAIR: Final = extended(
    "RepairRow",
    wrongly_denied=listed(answer(**_REPAIR_EVENT, outcome=OUTCOME, reason=TEXT, limit_id=TEXT))
    | {"description": "Denied, though with what reservations really held then each would have fitted."},
    denials_looked_at=WHOLE,
    denials_only_counted=WHOLE | {"description": "Further denials of the same limits, which have no event to look at."},
    reservations_without_end=listed(answer(**_REPAIR_EVENT)),
)

BOOK_LINE: Final = answer(
    customer_id=TEXT,
    customer_name=TEXT,
    limit_id=nullable(TEXT),
    meters=listed(TEXT),
    unit=TEXT,
    period_start=INSTANT,
    period_end=INSTANT,
    enforced=nullable(WHOLE) | {"description": "What Redis counted; null where no limit counts this."},
    recorded=WHOLE,
    billed=nullable(WHOLE) | {"description": "Ours in UsageBox; null where there is none."},
    external=nullable(WHOLE),
    differences=listed(
        answer(
            between=one_of("enforced/recorded", "recorded/billed"),
            cause=one_of(*get_args(Cause)),
            quantity=WHOLE | {"description": "What the second book lacks; below 0: has too much."},
            sentence=TEXT,
        )
    ),
    compared_at=INSTANT,
)

BOOKS: Final = extended(
    "BookLines",
    counts=answer(lines=WHOLE, differ=WHOLE, drift=WHOLE, oldest_compared_at=nullable(INSTANT)),
)

RECONCILE_REQUEST: Final = request("customer_id", customer_id=text(1, MAX_ID_BYTES), dry_run=BOOLEAN)

RECONCILED: Final = answer(
    customer_id=TEXT,
    dry_run=BOOLEAN,
    lines=listed(known("BookLine")),
    repairs=listed(answer(what=one_of("counter", "delivery"), limit_id=nullable(TEXT), message=TEXT)),
    unexplained=BOOLEAN,
)

PROBLEM: Final = answer(type={"type": "string", "format": "uri"}, title=TEXT, status=whole(400, 599), detail=TEXT) | {
    "description": "RFC 9457 problem details. `field` names the input at fault, `expected` what it must be."
}

EVALUATION: Final = answer(key=TEXT, value={}, reason=TEXT, variant=TEXT, metadata=mapped({}))

SUMMARY: Final = answer(
    customers=WHOLE,
    stopped=WHOLE,
    throttled=WHOLE,
    suspended=WHOLE,
    exhausting_within_24h=WHOLE,
    decisions_last_minute=answer(allow=WHOLE, throttle=WHOLE, stop=WHOLE),
    sandbox=BOOLEAN,
    mirror_age_seconds=nullable(NUMBER),
    outbox_entries=WHOLE,
    relay_lag_seconds=NUMBER,
    install_id=TEXT,
    environment=TEXT,
    as_of=INSTANT,
)

SYNC: Final = answer(
    mirror=answer(
        source=TEXT,
        host=nullable(TEXT),
        dialect=nullable(TEXT),
        sandbox=BOOLEAN,
        last_poll_at=nullable(INSTANT),
        age_seconds=nullable(NUMBER),
        cursor=nullable(TEXT),
        totals_read_since=nullable(INSTANT) | {"description": "Everybody's usage outside the gate was read since."},
        customers=WHOLE,
        error=nullable(TEXT),
    ),
    relays=listed(
        answer(
            sink=TEXT,
            pending=WHOLE,
            attempted=WHOLE,
            delivered=WHOLE,
            dead=WHOLE,
            discarded=WHOLE,
            oldest_pending_at=nullable(INSTANT),
            error=nullable(TEXT),
        )
    ),
    outbox=answer(entries=WHOLE, oldest_age_seconds=NUMBER),
    webhooks=answer(accepted=WHOLE, shed=WHOLE, ignored=WHOLE, refused=WHOLE),
    verifier=answer(position=WHOLE, mismatches=WHOLE),
    as_of=INSTANT,
)

DEAD_LETTER: Final = answer(
    sink=one_of(*SINKS),
    position=WHOLE,
    item_id=TEXT,
    state=one_of(*DEAD_STATES),
    attempts=WHOLE,
    at=INSTANT,
    error=nullable(TEXT),
    customer_id=TEXT,
    customer_name=TEXT,
    decision_id=nullable(TEXT),
    discarded_by=nullable(TEXT),
    discarded_at=nullable(INSTANT),
    discard_reason=nullable(TEXT),
)

SCHEMAS: Final[dict[str, Shape]] = {
    "UsageEvent": USAGE_EVENT,
    "NewReservation": NEW_RESERVATION,
    "Commit": COMMIT,
    "Reservation": RESERVATION,
    "ReservationDecision": extended("Decision", reservation_id=nullable(TEXT), deadline=nullable(INSTANT)),
    "FinishedReservation": FINISHED_RESERVATION,
    "OpenReservations": OPEN_RESERVATIONS,
    "Limit": LIMIT,
    "Decision": DECISION,
    "DecisionRow": DECISION_ROW,
    "Decisions": page("DecisionRow"),
    "NewCorrection": NEW_CORRECTION,
    "CorrectionRow": CORRECTION_ROW,
    "Correction": CORRECTION,
    "Corrections": page("Correction"),
    "MadeCorrection": extended("Correction", previous_state=STATE, customer_state=STATE, repeated=BOOLEAN),
    "StoredDecision": STORED_DECISION,
    "CustomerRow": CUSTOMER_ROW,
    "Customers": page("CustomerRow"),
    "Customer": CUSTOMER,
    "CustomerTerms": CUSTOMER_TERMS,
    "Usage": USAGE,
    "NewOverride": NEW_OVERRIDE,
    "Override": OVERRIDE,
    "Overrides": page("Override"),
    "GuardrailEvent": GUARDRAIL_EVENT,
    "GuardrailEvents": page("GuardrailEvent"),
    "RepairRow": REPAIR_ROW,
    "Repairs": page("RepairRow"),
    "Repair": REPAIR,
    "BookLine": BOOK_LINE,
    "BookLines": page("BookLine"),
    "Books": BOOKS,
    "ReconcileRequest": RECONCILE_REQUEST,
    "Reconciled": RECONCILED,
    "Evaluation": EVALUATION,
    "Problem": PROBLEM,
    "Summary": SUMMARY,
    "Sync": SYNC,
    "DeadLetter": DEAD_LETTER,
    "DeadLetters": page("DeadLetter"),
}
