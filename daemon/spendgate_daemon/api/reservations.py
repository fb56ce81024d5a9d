"""Reservations: hold a quantity, then commit what was really used, release it, or ask for more time.

Reserving is a decision and answers as one. A reservation id is a signed token, so it says itself whose it is; a key bound
to a customer gets the same answer for another's reservation as for one that never was.
"""

from __future__ import annotations

from typing import Any, Final

from spendgate.calls import MAX_LIFETIME_SECONDS, Finished, actual_of, lifetime_us_of
from spendgate.errors import AboveReserved, InvalidEvent
from spendgate.reasons import rfc3339
from spendgate.token import ReservationToken
from spendgate_daemon.api.decisions import Decisions, as_preferred, as_written
from spendgate_daemon.api.fast_path import SEGMENT, Answer, Call, Handler
from spendgate_daemon.api.problems import Problem, invalid, problem_of, unknown_reservation
from spendgate_daemon.api.reading import EVENT_FIELDS, read_object
from spendgate_daemon.api.services import Services

RESERVE_FIELDS: Final = EVENT_FIELDS | {"lifetime_seconds"}
COMMIT_FIELDS: Final = frozenset({"quantity", "quantities"})


class Reservations:
    """`POST /v1/reservations` and what ends or extends one. `decisions` decides them."""

    def __init__(self, services: Services, decisions: Decisions) -> None:
        self._gate = services.decider
        self._decisions = decisions

    def routes(self) -> dict[str, Handler]:
        """For the fast path."""
        one = f"/v1/reservations/{SEGMENT}"
        return {
            "/v1/reservations": self._reserve,
            f"{one}/commit": self._commit,
            f"{one}/release": self._release,
            f"{one}/extend": self._extend,
        }

    async def _reserve(self, call: Call) -> Answer:
        call.principal.require("decide")
        value = read_object(call.body, RESERVE_FIELDS, "one usage event")
        if "lifetime_seconds" in value and value["lifetime_seconds"] is None:
            raise invalid("lifetime_seconds", "a whole number of seconds, or absent")
        event = {name: given for name, given in value.items() if name != "lifetime_seconds"}
        decision = await self._decisions.submit(
            event, call.principal, call.headers, mode="reserve", lifetime_seconds=value.get("lifetime_seconds")
        )
        body = decision.answer()
        deadline = body["reservation"]["deadline"] if body["reservation"] is not None else None
        held = {"reservation_id": decision.reservation_id, "deadline": deadline}
        return as_preferred(decision, body | held, call.headers)

    async def _commit(self, call: Call) -> Answer:
        token = await self._token(call)
        value = read_object(call.body, COMMIT_FIELDS, "quantity, or quantities")
        if "quantities" in value and value["quantities"] is None:
            raise invalid("quantities", "an object of meters, or absent")
        try:
            actual = actual_of(token, value.get("quantity"), value.get("quantities"))
            finished = await self._gate.finish(token, "commit", actual)
        except InvalidEvent as exc:
            raise _as_committed(exc, value, token) from exc
        return 200, _answer(call.segment, token, finished), {}

    async def _release(self, call: Call) -> Answer:
        token = await self._token(call)
        if call.body:
            read_object(call.body, frozenset(), "empty")
        return 200, _answer(call.segment, token, await self._gate.finish(token, "release", {})), {}

    async def _extend(self, call: Call) -> Answer:
        token = await self._token(call)
        seconds = read_object(call.body, frozenset({"seconds"}), "seconds").get("seconds")
        if seconds is None:
            raise invalid("seconds", f"a whole number from 1 to {MAX_LIFETIME_SECONDS}")
        by_us = lifetime_us_of(seconds, "seconds")
        return 200, _answer(call.segment, token, await self._gate.finish(token, "extend", {}, by_us)), {}

    async def _token(self, call: Call) -> ReservationToken:
        """Raises UnknownReservation, or the same as a problem."""
        call.principal.require("decide")
        token = await self._gate.read_token(call.segment)
        if call.principal.customer_id not in (None, token.customer_id):
            raise unknown_reservation()
        return token


def _as_committed(error: InvalidEvent, value: dict[str, Any], token: ReservationToken) -> Problem:
    """The field as the caller wrote it, and how much was reserved."""
    problem = problem_of(error)
    if not isinstance(error, AboveReserved):
        return as_written(error, value) if value.get("quantities") else problem
    problem.field = f"quantities.{error.meter}" if "quantities" in value else "quantity"
    problem.expected = f"at most {token.quantities.get(error.meter, 0)}, which was reserved, as the plan says"
    problem.detail = f"{problem.field} must be {problem.expected}"
    return problem


def _answer(reservation_id: str, token: ReservationToken, finished: Finished) -> dict[str, Any]:
    return {
        "reservation_id": reservation_id,
        "decision_id": finished.record_id,
        "customer_id": token.customer_id,
        "event_id": token.event_id,
        "status": finished.status,
        "reason": finished.reason,
        "duplicate": finished.duplicate,
        "reserved": token.quantities,
        "actual": finished.actual,
        "committed": finished.committed,
        "effective_at": rfc3339(finished.effective_at_us),
        "deadline": rfc3339(finished.deadline_us) if finished.deadline_us else None,
    }
