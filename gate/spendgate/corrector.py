"""Making corrections in Redis. Several of one customer are made one after the other, each from what the last one left."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from spendgate.control import Control
from spendgate.correction import Change, Correction, changes_of
from spendgate.event import UsageEvent
from spendgate.keys import decision_id_of, partition_of
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, decode_record, finish_of
from spendgate.refusals import error_of
from spendgate.reservation import Facts
from spendgate.script import CORRECT
from spendgate.transports import Argument


class Original(msgspec.Struct, frozen=True):
    """What is put right: the event as it was decided, under which policy, and the instant that it counts at (Unix
    microseconds). `stream_id` is its entry."""

    event: UsageEvent
    policy: EffectivePolicy
    effective_at_us: int
    stream_id: str


class Corrected(msgspec.Struct, frozen=True):
    """A correction that was made. `repeated`: the same one was made before, and nothing was done now."""

    record_id: str
    record: Record
    repeated: bool


class Corrector:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def correct(
        self, original: Original, correction: Correction, read_up_to: tuple[int, int]
    ) -> Corrected | None:
        """Make a correction, once per `correction.id`. `read_up_to` (epoch, sequence) is how far the customer's partition
        was stored when `correction.before` was read; None: a later correction of the customer isn't stored yet, so read
        again. Raises BacklogFull, TooLarge when a counter would leave its range, and what Redis raises."""
        customer_id, policy = original.event.customer_id, original.policy
        await self._control.keep_policies(partition_of(customer_id), [policy])
        reply = await self._control.run_for(CORRECT, customer_id, correct_arguments(original, correction, read_up_to))
        if reply[0] == b"error":
            raise error_of(reply[1].decode(), reply[2].decode(), original.event, customer_id)
        if reply[0] == b"behind":
            return None
        status, stream_id, record = reply
        return Corrected(
            record_id=decision_id_of(partition_of(customer_id), stream_id.decode()),
            record=decode_record(record),
            repeated=status == b"repeated",
        )


def correct_arguments(original: Original, correction: Correction, read_up_to: tuple[int, int]) -> list[Argument]:
    """What follows tag and customer."""
    facts = Facts(
        status="corrected",
        effective_at_us=original.effective_at_us,
        deadline_us=0,
        stream_id=original.stream_id,
        committed=tuple(correction.delta.items()),
        actual=((correction.meter, correction.after),),
        correction=correction,
    )
    return [original.event.encode(), original.policy.digest, msgspec.msgpack.encode(facts), *read_up_to]


def changes_in(record: Record, policy: EffectivePolicy) -> Iterator[Change]:
    """What a record of a correction did to the limits. Raises ValueError for another record, and UnknownEngine."""
    facts, event = record.reservation, record.event
    if facts is None or facts.correction is None or event is None:
        raise ValueError("the record corrects nothing")
    after = finish_of(record, policy).counters
    return changes_of(
        policy, event, facts.correction.delta, record.counters_by_limit(policy), after, facts.effective_at_us
    )
