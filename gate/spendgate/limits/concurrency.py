"""`concurrency`: how many runs may be open at once. Without reservations there is none, so it concerns no event yet."""

from __future__ import annotations

import msgspec

from spendgate.event import UsageEvent
from spendgate.limits.check import Check, Context, Exhaustion
from spendgate.limits.result import Denial, LimitResult, Mode


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="concurrency"):
    """At most `max` open reservations that touch `meters`."""

    id: str
    meters: tuple[str, ...]
    max: int
    unit: str = "run"
    when_exceeded: Denial = "throttle"
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    per: str | None = None
    max_values: int = 0

    def check(self, event: UsageEvent, stored: object, context: Context) -> Check:  # noqa: ARG002
        return Check(
            LimitResult(
                id=self.id,
                kind="concurrency",
                result="not_applicable",
                unit=self.unit,
                mode=self.mode,
                when_exceeded=self.when_exceeded,
                meters=self.meters,
                limit=self.max,
                remaining=self.max,
            )
        )

    def exhaustion(self, stored: object, context: Context) -> Exhaustion | None:  # noqa: ARG002
        return None
