"""One customer at one moment: what dashboards, flags and gateways are told."""

from __future__ import annotations

import msgspec

from spendgate.decide import check_limit, context_of, refresh
from spendgate.event import UsageEvent
from spendgate.limits import Counters, counter_field
from spendgate.limits.result import LimitResult
from spendgate.policy import EffectivePolicy
from spendgate.record import Record
from spendgate.state import CustomerState, Override, PolicyState, Standing


class Snapshot(msgspec.Struct, frozen=True):
    """Inputs as Redis held them at `now_us`, read in one atomic step. `state` None: nobody knows this customer."""

    customer_id: str
    policy: EffectivePolicy
    policy_digest: str
    state: PolicyState | None
    overrides: tuple[Override, ...]
    counters: Counters
    stored_standing: Standing
    now_us: int
    mirrored_at_us: int

    @property
    def known(self) -> bool:
        return self.state is not None and self.state.status != "unknown"

    @property
    def standing(self) -> Standing:
        """The standing as of `now_us`, whether or not the sweep has come by since it changed."""
        return self.standing_at(self.now_us)

    def standing_at(self, now_us: int) -> Standing:
        """The standing that follows by itself at a later instant, if nobody writes anything."""
        return refresh(self.policy, self.state, self.counters, self.overrides, now_us, standing=self.stored_standing)

    @property
    def customer_state(self) -> CustomerState:
        return self.standing.state

    def limits(self) -> list[LimitResult]:
        """Each limit as it stands, with what is left and when it resets; the result is `not_applicable`."""
        nothing = UsageEvent({}, {}, self.customer_id, "")
        context = context_of(self.state, self.now_us)
        return [
            check_limit(limit, nothing, self.counters.get(counter_field(limit)), context).result
            for limit in self.policy.limits
        ]


def snapshot_of(record: Record, policy: EffectivePolicy) -> Snapshot:
    """View a record of kind `snapshot`."""
    return Snapshot(
        customer_id=record.customer_id,
        policy=policy,
        policy_digest=record.policy,
        state=record.state,
        overrides=record.overrides,
        counters=record.counters_by_limit(policy),
        stored_standing=record.standing,
        now_us=record.now_us,
        mirrored_at_us=record.mirrored_at_us,
    )
