"""The demo's customers: who they are, on which plan, and who is about to reach a limit."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from spendgate_daemon.demo.profile import Profile

SMALL: Final = {"gpt-5-mini": 0.6, "claude-haiku-4-5": 0.4}
# A free customer that tries a model of another plan now and then: those events are stopped, one by one.
CURIOUS: Final = {"gpt-5-mini": 0.9, "claude-opus-4-5": 0.1}
MIXED: Final = {"gpt-5": 0.4, "claude-sonnet-4-5": 0.4, "gpt-5-mini": 0.2}
LARGE: Final = {"claude-sonnet-4-5": 0.5, "claude-opus-4-5": 0.2, "gpt-5": 0.3}
OPUS: Final = {"claude-opus-4-5": 1.0}


class DemoCustomer(msgspec.Struct, frozen=True):
    """`runs_out_in_minutes`: the cap or the grant is set so that live traffic reaches it about then (None: plenty)."""

    name: str
    plan: Literal["free", "starter", "growth", "enterprise"]
    profile: Profile
    runs_out_in_minutes: float | None = None

    @property
    def customer_id(self) -> str:
        return self.profile.customer_id


def _customer(
    customer_id: str,
    name: str,
    plan: Literal["free", "starter", "growth", "enterprise"],
    profile: tuple[float, dict[str, float], int],
    *,
    runs_out_in_minutes: float | None = None,
    bursts: bool = False,
    gpu: bool = False,
) -> DemoCustomer:
    rate, models, utc_offset_hours = profile
    made = Profile(customer_id, rate, models, utc_offset_hours, bursts=bursts, gpu=gpu, sleeps=plan == "free")
    return DemoCustomer(name, plan, made, runs_out_in_minutes)


DEMO_CUSTOMERS: Final = (
    _customer("meridian-freight", "Meridian Freight", "enterprise", (6000, LARGE, -5)),
    _customer("halden-insurance", "Halden Insurance Group", "enterprise", (3600, MIXED, 1)),
    _customer("orchard-health", "Orchard Health Systems", "enterprise", (2400, LARGE, -8), gpu=True),
    _customer("kestrel-aerospace", "Kestrel Aerospace", "enterprise", (1500, OPUS, 9), gpu=True, runs_out_in_minutes=3),
    _customer("northlight-studios", "Northlight Studios", "growth", (1400, MIXED, -8)),
    _customer("tessera-legal", "Tessera Legal", "growth", (1000, LARGE, -5)),
    _customer("copperline-energy", "Copperline Energy", "growth", (800, MIXED, -6), runs_out_in_minutes=5),
    _customer("saffron-table", "Saffron & Table", "growth", (600, SMALL, 5)),
    _customer("bluewick-bank", "Bluewick Bank", "growth", (450, MIXED, 0)),
    _customer("arbor-analytics", "Arbor Analytics", "growth", (350, MIXED, 10)),
    _customer("finch-harbor", "Finch & Harbor Travel", "starter", (300, SMALL, 1), runs_out_in_minutes=2),
    _customer("quillmark", "Quillmark Publishing", "starter", (240, MIXED, 0)),
    _customer("ridgeline-homes", "Ridgeline Homes", "starter", (200, SMALL, -7), bursts=True),
    _customer("pebble-pets", "Pebble Pets", "starter", (160, SMALL, -5), runs_out_in_minutes=12),
    _customer("lanternfish-games", "Lanternfish Games", "starter", (130, MIXED, 9), bursts=True),
    _customer("oakmoor-academy", "Oakmoor Academy", "starter", (100, SMALL, 0)),
    _customer("vela-logistics", "Vela Logistics", "starter", (80, MIXED, 8)),
    _customer("tinroof-media", "Tinroof Media", "starter", (60, SMALL, -3), bursts=True),
    _customer("sundial-labs", "Sundial Labs", "free", (12, SMALL, -8)),
    _customer("mosswood-design", "Mosswood Design", "free", (10, CURIOUS, 1)),
    _customer("paperkite", "Paperkite", "free", (8, SMALL, 8)),
    _customer("bright-ledger", "Bright Ledger", "free", (6, SMALL, -5)),
    _customer("hollow-reed", "Hollow Reed Music", "free", (5, CURIOUS, 2)),
    _customer("juniper-notes", "Juniper Notes", "free", (4, SMALL, 10)),
)
