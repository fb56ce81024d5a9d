"""A run that outlived its reservation: what it used happened, so it is counted all the same.

Past its deadline and grace a reservation is ended by itself, and can't be committed any more. What it did not count by then
is counted as usage that already happened: never denied, even if that goes over a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from spendgate.calls import Finished
from spendgate.decision import Decision
from spendgate.errors import ReservationFinished, UnknownReservation
from spendgate.event import UsageEvent
from spendgate.keys import decision_id_of, partition_of
from spendgate.policy import ReservationTerms

_BY_ITSELF: Final = {"expired": False, "expired_committed": True}
"""How it is told that a reservation was ended by its deadline, and whether what was reserved was debited then."""

_BY_A_JOURNAL: Final = {"released": False, "committed": True}
"""The same where the process that gave it in an outage has ended it."""

_log: Final = logging.getLogger("spendgate.run")


class LateUse(msgspec.Struct, frozen=True):
    """`debited` was counted at the deadline, as the plan says; `event` is what has to be counted beside it, if anything."""

    actual: dict[str, int]
    debited: dict[str, int]
    event: UsageEvent | None


def late_use(
    reserved: UsageEvent,
    stream_id: str,
    effective_at_us: int,
    terms: ReservationTerms,
    actual: Mapping[str, int],
    ended: str,
) -> LateUse | None:
    """What was used of a reservation that ended so (see `ReservationFinished.ended`), and not committed. None where
    somebody else has ended it, so that nobody can say which is true."""
    in_outage = not stream_id or stream_id.startswith("0-")
    counted = (_BY_ITSELF | _BY_A_JOURNAL if in_outage else _BY_ITSELF).get(ended)
    if counted is None:
        return None
    held = reserved.quantities
    debited, late = dict(held) if counted else {}, {}
    for meter, quantity in actual.items():
        due = min(quantity, held.get(meter, 0)) if terms.above == "cap" else quantity
        if due > debited.get(meter, 0):
            late[meter] = due - debited.get(meter, 0)
    if not late:
        return LateUse(dict(actual), debited, None)
    # One event for each reservation, so that counting it again does nothing.
    place = reserved.identity().hex() if in_outage else decision_id_of(partition_of(reserved.customer_id), stream_id)
    event = msgspec.structs.replace(
        reserved, quantities=late, event_id=f"late-{place}", occurred_at_us=effective_at_us, retry_safe=True
    )
    return LateUse(dict(actual), debited, event)


def late_use_of(
    decision: Decision, actual: Mapping[str, int], error: ReservationFinished | UnknownReservation
) -> LateUse | None:
    """The same for a run under `decision`. A reservation that ended so long ago that how is forgotten was ended by its
    deadline: nobody but the run has it."""
    terms = decision.policy.reservations
    forgotten = "expired_committed" if terms.at_deadline == "commit" else "expired"
    ended = error.ended if isinstance(error, ReservationFinished) else forgotten
    return late_use(decision.event, decision.stream_id, decision.effective_at_us, terms, actual, ended)


def late_end(decision: Decision, late: LateUse, recorded: Decision | None) -> Finished:
    """How a run under `decision` ended; `recorded` answers `late.event`."""
    more = late.event.quantities if late.event is not None else {}
    _log.warning(
        "a run of %s outlived its reservation %s; recorded late: %s",
        decision.event.customer_id,
        decision.event_id,
        more or "nothing",
    )
    return Finished(
        record_id=(recorded or decision).decision_id or "",
        status="expired",
        reason="expired_committed" if late.debited else "expired",
        committed={m: late.debited.get(m, 0) + more.get(m, 0) for m in sorted({*late.debited, *more})},
        actual=late.actual,
        effective_at_us=decision.effective_at_us,
        deadline_us=0,
    )
