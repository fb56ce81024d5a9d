"""What is wrong with a document or with the terms it is compiled for: every fault of a document with its line and field, so
that one reading mends them all."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """`line` counts from 1; `field` is a path such as `plans.pro.limits[2].cap`."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.message}" if self.field else f"line {self.line}: {self.message}"


class PolicyError(Exception):
    """Root of what this package raises."""


class DocumentError(PolicyError):
    """The document can't be used; whatever was in force stays in force."""

    def __init__(self, name: str, faults: Sequence[Fault]) -> None:
        super().__init__(
            "\n".join(
                [
                    f"{name}: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}",
                    *(f"  {fault}" for fault in faults),
                ]
            )
        )
        self.name = name
        self.faults = tuple(faults)


class UnknownPlan(PolicyError):
    """The document has no plan of this name."""

    def __init__(self, plan: str, known: Sequence[str]) -> None:
        super().__init__(f"the policy document has no plan {plan!r}; it has {', '.join(known)}")
        self.plan = plan


class UnknownZone(PolicyError):
    """The contract's time zone is none."""

    def __init__(self, zone: str) -> None:
        super().__init__(f"the contract's time zone {zone!r} is no IANA time zone, such as Europe/Berlin")
        self.zone = zone


class UnknownBillingDay(PolicyError):
    """The contract's billing day is in no month."""

    def __init__(self, day: int) -> None:
        super().__init__(f"the contract's billing day is {day}; months have days 1 to 31")
        self.day = day
