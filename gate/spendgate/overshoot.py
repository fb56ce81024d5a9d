"""How far all answers together can go beyond a limit, while what it is decided by may be wrong.

That is so in an outage, when no process knows what the others let pass, and behind a mirror that is older than the plan's
`max_staleness`. Either way a limit lets no more pass than its outage allowance until it is known again.
"""

from __future__ import annotations

from spendgate.event import UsageEvent
from spendgate.limits import Credits, Quota
from spendgate.limits.check import amount_of, applies
from spendgate.policy import EffectivePolicy


def allowances_of(policy: EffectivePolicy, event: UsageEvent) -> dict[str, int]:
    """By id, in the limit's unit: the outage allowance of each limit that counts this event and may deny it."""
    return {
        limit.id: limit.outage_allowance
        for limit in policy.limits
        if limit.mode == "enforce"
        and (isinstance(limit, Credits) or (isinstance(limit, Quota) and limit.hard_cap is not None))
        and amount_of(event, limit.meters)
        and applies(limit.match, event)
    }
