"""What interleavings are made of: policies, events, contracts and overrides, made once.

A limit's id says what it counts, in which windows and per what; policies differ in whether they have it, its cap and its
mode. So any policy may follow any other, and an accountant can add up what each limit counted.
"""

from __future__ import annotations

import functools
import random
from typing import Final

from spendgate.event import UsageEvent, usage_event
from spendgate.limits import Concurrency, Credits, Limit, PerEvent, Quota, Rate, Threshold, Weight
from spendgate.limits.check import Grant
from spendgate.policy import EffectivePolicy, ReservationTerms
from spendgate.state import OverrideSet, PolicyState, burn_order
from spendgate.window import Window, calendar_window

CUSTOMER: Final = "acme"
START_US: Final = 1_790_000_400_000_000
SECOND_US: Final = 1_000_000
HOUR_US: Final = 3600 * SECOND_US
METERS: Final = {"runs": "run", "tokens": "token", "gpu": "second"}
EVENT_IDS: Final = 6
HOURLY: Final = Window(length_seconds=3600)
_START = START_US // SECOND_US
DAILY: Final = calendar_window(
    [_START - 86_400 * 2, _START - 5_000, _START + 2_000, _START + 86_400 * 3, _START + 86_400 * 9]
)
_WEIGHTS: Final = (Weight("tokens", "gpt-*", 5), Weight("tokens", "*", 3), Weight("gpu", "*", 7))
_CHANCE: Final = random.Random(20_261_125)


def _quota(name: str, meters: tuple[str, ...], window: Window, **fields: object) -> Quota:
    cap = _CHANCE.randint(0, 60)
    hard_cap = _CHANCE.choice([cap, cap, cap, cap + 10, None])
    thresholds = (Threshold("50%", -(-cap // 2)), Threshold("100%", cap))
    return Quota(
        id=name,
        meters=meters,
        unit="token",
        period="window",
        window=window,
        cap=cap,
        hard_cap=hard_cap,
        floor=_CHANCE.choice([0, 0, 3]),
        thresholds=thresholds if fields.get("per") is None else (),
        when_exceeded=_CHANCE.choice(["stop", "throttle"]),
        mode=_mode(),
        **fields,  # type: ignore[arg-type]
    )


def _mode() -> str:
    return _CHANCE.choice(["enforce"] * 5 + ["shadow"])


def _concurrency(name: str, **fields: object) -> Concurrency:
    most = _CHANCE.randint(0, 3)
    return Concurrency(id=name, meters=("tokens", "gpu"), max=most, mode=_mode(), max_values=2, **fields)  # type: ignore[arg-type]


def _limits() -> tuple[Limit, ...]:
    every: tuple[Limit, ...] = (
        _quota("hour", ("tokens",), HOURLY),
        _quota("hour-of-both", ("tokens", "gpu"), HOURLY),
        _quota("day", ("runs",), DAILY),
        _quota("day-of-claude", ("tokens",), DAILY, match={"model": "claude-*"}),
        _quota("hour-per-agent", ("tokens",), HOURLY, per="agent", max_values=2),
        Credits(
            id="wallet",
            meters=("gpu", "tokens"),
            weights=_WEIGHTS,
            floor=_CHANCE.choice([0, 10]),
            granted_when_unknown=_CHANCE.choice([0, 150]),
            mode=_mode(),  # type: ignore[arg-type]
        ),
        Rate(
            id="rate",
            meters=("tokens",),
            unit="token",
            rate="3 in 7 s",
            units=3,
            per_us=7 * SECOND_US,
            burst=_CHANCE.choice([5, 20, 60]),
            mode=_mode(),  # type: ignore[arg-type]
        ),
        _concurrency("open"),
        _concurrency("open-per-agent", per="agent"),
        PerEvent(id="largest", meters=("tokens",), unit="token", max=_CHANCE.randint(10, 20)),
    )
    return tuple(_CHANCE.sample(every, _CHANCE.randint(1, 4)))


def _policy() -> EffectivePolicy:
    terms = ReservationTerms(
        lifetime_us=_CHANCE.choice([SECOND_US, 300 * SECOND_US]),
        max_lifetime_us=_CHANCE.choice([300 * SECOND_US, HOUR_US]),
        grace_us=_CHANCE.choice([0, 30 * SECOND_US]),
        at_deadline=_CHANCE.choice(["release", "commit"]),
        above=_CHANCE.choice(["reject", "cap", "overage"]),
    )
    return EffectivePolicy(document="soak", plan="soak", meters=METERS, limits=_limits(), reservations=terms)


def _event(number: int) -> UsageEvent:
    meters = _CHANCE.choice([["tokens"]] * 4 + [["gpu"], ["runs"], ["tokens", "gpu"], ["tokens", "runs"]])
    metadata = {}
    if _CHANCE.random() < 0.7:
        metadata["model"] = _CHANCE.choice(["claude-5", "claude-5", "gpt-5"])
    if _CHANCE.random() < 0.8:
        metadata["agent"] = _CHANCE.choice(["a", "a", "b", "c"])
    quantities = {meter: _CHANCE.choice([1, 2, 5, 10, _CHANCE.randint(1, 20)]) for meter in meters}
    return usage_event(CUSTOMER, quantities=quantities, metadata=metadata, event_id=f"event-{number}")


POLICIES: Final = tuple(_policy() for _ in range(300))
_ENCODED: Final = tuple((policy.encode(), policy.rules()) for policy in POLICIES)
EVENTS: Final = tuple(tuple(_event(number) for _ in range(120)) for number in range(EVENT_IDS))
"""By the number in their id: events of one id have different contents, sometimes the same."""

GRANTS: Final = (
    (),
    burn_order([Grant("soon", 40, START_US + 600 * SECOND_US), Grant("later", 90, START_US + 2 * HOUR_US)]),
    burn_order([Grant("first", 30, 0, -1), Grant("soon", 60, START_US + 600 * SECOND_US)]),
)


@functools.lru_cache(maxsize=16_384)
def contract_arguments(
    policy: int, version: int, granted: int | None, grants: int, status: str
) -> tuple[bytes | str, ...]:
    """What `put_state` is told."""
    wanted = POLICIES[policy]
    state = PolicyState(wanted.digest, "soak", status, version, "soak", START_US, granted, {}, GRANTS[grants])  # type: ignore[arg-type]
    return (state.encode(), wanted.digest, *_ENCODED[policy], "")


def override_arguments(overrides: OverrideSet) -> tuple[bytes | int, ...]:
    """What `put_overrides` is told."""
    return (overrides.encode(), overrides.version)
