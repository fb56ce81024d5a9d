"""A checked policy document, as values. Numbers are whole; what a document leaves out has its default here."""

from __future__ import annotations

from typing import Literal

import msgspec


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
    """`cap` in units, or `contract` for the customer's cap of the single meter."""

    id: str
    meter: str
    cap: int | Literal["contract"]
    period: str
    anchor_day: int = 1
    timezone: str | None = None
    thresholds: tuple[int, ...] = ()
    overage: Literal["block", "bill"] | BillUpTo = "block"
    floor: int = 0
    when_exceeded: Literal["stop", "throttle"] = "stop"
    mode: Literal["enforce", "shadow"] = "enforce"


class CreditsRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="credits"):
    """`weights`: meter → model pattern → micro-credits per unit; longer patterns are tried first."""

    id: str
    weights: dict[str, dict[str, int]]
    floor: int = 0
    when_exceeded: Literal["stop", "throttle"] = "stop"
    mode: Literal["enforce", "shadow"] = "enforce"


class RateRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="rate"):
    """`rate` such as `100000/min`; `burst` in units, the rate's own number when left out."""

    id: str
    meter: str
    rate: str
    burst: int | None = None
    when_exceeded: Literal["stop", "throttle"] = "throttle"
    mode: Literal["enforce", "shadow"] = "enforce"


class PerEventRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="per_event"):
    """`max` units in one event, or of the numeric metadata `field`."""

    id: str
    max: int
    meter: str = "*"
    field: str | None = None
    when_exceeded: Literal["stop", "throttle"] = "stop"
    mode: Literal["enforce", "shadow"] = "enforce"


Rule = QuotaRule | CreditsRule | RateRule | PerEventRule


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`models` None: any model."""

    limits: tuple[Rule, ...] = ()
    models: tuple[str, ...] | None = None
    description: str = ""


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    meters: dict[str, Meter]
    plans: dict[str, Plan]
    defaults: Defaults = Defaults()
    timezone: str = "UTC"
    digest: str = ""
    text: str = ""
