"""What the store keeps of a correction's record, and the sentence that tells it."""

from __future__ import annotations

from spendgate.policy import EffectivePolicy
from spendgate.reasons import quantity_text
from spendgate.record import Record
from spendgate_daemon.store.corrections import StoredCorrection


def correction_of(decision_id: str, record: Record, policy: EffectivePolicy) -> StoredCorrection | None:
    """None for a record of anything else."""
    made = record.reservation.correction if record.reservation is not None else None
    if made is None:
        return None
    return StoredCorrection(
        decision_id=decision_id,
        correction_id=made.id,
        corrects=made.decision_id,
        usage_id=made.usage_id,
        customer_id=record.customer_id,
        meter=made.meter,
        unit=policy.meters.get(made.meter, "unit"),
        before=made.before,
        after=made.after,
        actor=made.actor,
        reason=made.reason,
        at_us=record.now_us,
    )


def told(corrected: StoredCorrection) -> str:
    """`corrected from 1,200 to 0 tokens by alex@ops: the run failed`."""
    right = quantity_text(corrected.after, corrected.unit)
    return f"corrected from {corrected.before:,} to {right} by {corrected.actor}: {corrected.reason}"
