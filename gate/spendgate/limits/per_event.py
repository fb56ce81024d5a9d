"""`per_event`: the largest single event, by quantity or by a numeric metadata field such as `context_window`.

It keeps no counter and changes no customer state: a smaller event may follow at once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from spendgate.errors import InvalidEvent
from spendgate.event import MAX_NUMBER, UsageEvent
from spendgate.limits.check import Check, Context, Ending, Exhaustion, amount_of
from spendgate.limits.result import Denial, LimitResult, Mode


class PerEvent(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="per_event"):
    """At most `max` units of `meters` in one event, or at most `max` in metadata `field` when that is set.
    An event without the field, or that touches none of the meters, is not concerned."""

    Counter: ClassVar = None

    id: str
    meters: tuple[str, ...]
    unit: str
    max: int
    field: str | None = None
    when_exceeded: Denial = "stop"
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    per: None = None
    max_values: int = 0

    def rule(self) -> list[Any]:
        """The kind's own part of what the script reads: see per_event.lua."""
        return [self.max, self.field or False]

    def alone(self, slots: int) -> PerEvent:  # noqa: ARG002
        """See `Quota.alone`: one event is judged alike everywhere."""
        return self

    def check(self, event: UsageEvent, counter: None, context: Context) -> Check:  # noqa: ARG002
        amount = amount_of(event, self.meters)
        if amount and self.field is not None:
            amount = _whole_number(self.field, event.metadata.get(self.field))
        line = LimitResult(
            id=self.id,
            kind="per_event",
            result="not_applicable",
            unit=self.unit,
            mode=self.mode,
            when_exceeded=self.when_exceeded,
            meters=self.meters,
            amount=amount,
            limit=self.max,
            field=self.field,
        )
        if not amount:
            return Check(line)
        if amount <= self.max:
            return Check(msgspec.structs.replace(line, result="pass"))
        return Check(msgspec.structs.replace(line, result="deny"), reason="event_too_large")

    def finish(self, counter: None, ending: Ending) -> tuple[None, tuple[str, ...]]:  # noqa: ARG002
        return counter, ()

    def keeps(self, counter: None, at_us: int) -> bool:  # noqa: ARG002
        """Never: there is nothing to keep."""
        return False

    def held(self, event: UsageEvent) -> int:  # noqa: ARG002
        """Nothing: it keeps no count of what is reserved."""
        return 0

    def exhaustion(self, counter: None, context: Context) -> Exhaustion | None:  # noqa: ARG002
        return None

    def changes_at_us(self, context: Context) -> int:  # noqa: ARG002
        return 0


def _whole_number(field: str, value: object) -> int:
    """0 stands for an absent field. A float with a whole value counts, as Lua can't tell it from an integer."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 0:
        raise InvalidEvent(f"metadata.{field}", f"a whole number from 0 to {MAX_NUMBER}")
    return int(value)
