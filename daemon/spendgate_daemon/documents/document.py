"""A checked policy document, as values. Numbers are whole; what a document leaves out has its default here.

Texts such as `5m` or `1%` stay as they were written, so that people are shown their own words; they are known to be good.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

DEFAULT_MAX_VALUES: Final = 1000

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Denial = Literal["stop", "throttle"]
Mode = Literal["enforce", "shadow"]


class Meter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unit: str
    description: str = ""


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens where the contract is silent. `unknown_customer`: `deny`, or the plan that serves them;
    `missing_contractual_cap`: `deny` (cap 0), `unlimited`, or units; `missing_credits`: whole credits granted when the
    source states none; `model_without_weight`: `deny`, or micro-credits per unit."""

    unknown_customer: str = "deny"
    unknown_meter: Literal["refuse"] = "refuse"
    missing_contractual_cap: int | Literal["deny", "unlimited"] = "deny"
    missing_credits: int = 0
    model_without_weight: int | Literal["deny"] = "deny"


class BillUpTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bill_up_to: int


class QuotaRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="quota"):
    """`cap` in units, or `contract` for the customer's cap of the single meter. `anchor_day` (of a month) and `timezone`
    may be the contract's, too; `timezone` None is the document's. `anchor` is an instant at which a window of a duration
    starts, None the Unix epoch. `outage_allowance` is units, or a percentage of the cap; None: the plan's.
    `match`, `per` and `max_values` are the same for every kind: which events count (metadata field → pattern), by which
    metadata field they are counted apart, and how many different values of it a customer may make in a period."""

    id: str
    meter: str
    cap: int | Literal["contract"]
    period: str
    anchor_day: int | Literal["contract"] = 1
    anchor_weekday: Weekday = "monday"
    anchor: str | None = None
    timezone: str | None = None
    thresholds: tuple[int, ...] = ()
    overage: Literal["block", "bill"] | BillUpTo = "block"
    floor: int = 0
    match: dict[str, str] = {}
    per: str | None = None
    max_values: int = DEFAULT_MAX_VALUES
    outage_allowance: int | str | None = None
    when_exceeded: Denial = "stop"
    mode: Mode = "enforce"


class CreditsRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="credits"):
    """`weights`: meter → model pattern → micro-credits per unit; longer patterns are tried first. `outage_allowance` in
    whole credits."""

    id: str
    weights: dict[str, dict[str, int]]
    floor: int = 0
    match: dict[str, str] = {}
    outage_allowance: int = 0
    when_exceeded: Denial = "stop"
    mode: Mode = "enforce"


class RateRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="rate"):
    """`rate` such as `100000/min`; `burst` in units, the rate's own number when left out."""

    id: str
    meter: str
    rate: str
    burst: int | None = None
    match: dict[str, str] = {}
    per: str | None = None
    max_values: int = DEFAULT_MAX_VALUES
    when_exceeded: Denial = "throttle"
    mode: Mode = "enforce"


class ConcurrencyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="concurrency"):
    """At most `max` open reservations that touch the meters."""

    id: str
    max: int
    meter: str = "*"
    match: dict[str, str] = {}
    per: str | None = None
    max_values: int = DEFAULT_MAX_VALUES
    when_exceeded: Denial = "throttle"
    mode: Mode = "enforce"


class PerEventRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="per_event"):
    """`max` units in one event, or of the numeric metadata `field`."""

    id: str
    max: int
    meter: str = "*"
    field: str | None = None
    match: dict[str, str] = {}
    when_exceeded: Denial = "stop"
    mode: Mode = "enforce"


CountedRule = QuotaRule | RateRule | ConcurrencyRule
"""The kinds that may be counted apart by a metadata field."""

Rule = CountedRule | CreditsRule | PerEventRule


class Reservations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Durations. `lifetime` and `max_lifetime` None: 5m and 1h, or as much as the other one asks for."""

    lifetime: str | None = None
    max_lifetime: str | None = None
    grace: str | None = None
    at_deadline: Literal["release", "commit"] = "release"
    above: Literal["reject", "cap", "overage"] = "overage"


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`models` None: any model. `max_staleness` None: any age. `outage_allowance` is a percentage of the cap of each quota
    that states none itself."""

    limits: tuple[Rule, ...] = ()
    models: tuple[str, ...] | None = None
    reservations: Reservations = Reservations()
    max_staleness: str | None = None
    outage_allowance: str | None = None
    description: str = ""


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    meters: dict[str, Meter]
    plans: dict[str, Plan]
    defaults: Defaults = Defaults()
    timezone: str = "UTC"
    digest: str = ""
    text: str = ""
