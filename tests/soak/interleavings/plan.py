"""A plan: what happens in one interleaving, step by step. Everything follows from its seed."""

from __future__ import annotations

import random
from typing import Final, Literal

import msgspec

from interleavings.menu import EVENT_IDS, EVENTS, GRANTS, HOUR_US, POLICIES, SECOND_US, START_US
from spendgate.event import UsageEvent
from spendgate.state import Override, OverrideSet


class Ask(msgspec.Struct, frozen=True):
    """An event is decided, reserved or recorded."""

    event: UsageEvent
    mode: Literal["decide", "reserve", "record"]
    lifetime_us: int = 0


class End(msgspec.Struct, frozen=True):
    """The reservation of an event id is ended or extended, if there is one. `more` is what was used beyond what was
    reserved, `share` of which it was used otherwise."""

    event_id: str
    action: Literal["commit", "release", "extend"]
    share: float = 1
    more: int = 0
    other_meter: bool = False
    by_us: int = 0


class Contract(msgspec.Struct, frozen=True):
    policy: int
    version: int
    granted: int | None
    grants: int
    status: str


class External(msgspec.Struct, frozen=True):
    """`limit_id` counts usage from elsewhere in its open period."""

    limit_id: str
    amount: int
    requested_at_us: int


class Housekeeping(msgspec.Struct, frozen=True):
    what: Literal["sweep", "refresh", "forget"]


Action = Ask | End | Contract | OverrideSet | External | Housekeeping


class Step(msgspec.Struct, frozen=True):
    now_us: int
    action: Action


Plan = list[Step]
_JUMPS_US: Final = (
    1,
    SECOND_US,
    7 * SECOND_US,
    40 * SECOND_US,
    301 * SECOND_US,
    331 * SECOND_US,
    HOUR_US // 2,
    HOUR_US,
)
_EXTERNAL: Final = ("hour", "hour-of-both", "day", "wallet", "hour-per-agent", "day-of-claude")


def plan_of(seed: int) -> Plan:
    """Two to four clients and sometimes an operator, merged at random while the clock moves, sometimes back."""
    chance = random.Random(seed)
    threads: list[list[Action]] = [_client(chance) for _ in range(chance.randint(2, 4))]
    if chance.random() < 0.7:
        threads.append(_operator(chance))
    order = [number for number, thread in enumerate(threads) for _ in thread]
    chance.shuffle(order)
    now_us = latest_us = START_US + chance.choice([0, chance.randrange(HOUR_US), HOUR_US - SECOND_US])
    steps: Plan = [Step(now_us, _contract(chance, 1))]
    if chance.random() < 0.15:
        steps.append(Step(now_us, _overrides(chance, 1)))
    for number in order:
        if chance.random() < 0.3:
            now_us = max(_least(latest_us), now_us + chance.choice(_JUMPS_US) * chance.choice([1, 1, 1, -1]))
            latest_us = max(latest_us, now_us)
        steps.append(Step(now_us, threads[number].pop(0)))
    if chance.random() < 0.1:
        steps += _after_all_is_forgotten(steps)
    return steps


def _after_all_is_forgotten(steps: Plan) -> Plan:
    """What is asked again when events are no longer remembered: a reservation that is open is known all the same."""
    now_us = steps[-1].now_us
    forgets: list[Action] = [Housekeeping("forget"), Housekeeping("forget")]
    asked = [step.action for step in steps if isinstance(step.action, Ask) and step.action.mode == "reserve"]
    return [Step(now_us, action) for action in [*forgets, *asked]]


def _least(latest_us: int) -> int:
    """Two periods of a limit are kept; a clock that was put back further finds nothing."""
    return latest_us - latest_us % HOUR_US - HOUR_US


def _client(chance: random.Random) -> list[Action]:
    """One event and what follows from it. A lost answer is a step that is taken again."""
    event = chance.choice(EVENTS[chance.randrange(EVENT_IDS)])
    kind = chance.random()
    if kind < 0.35:
        return [Ask(event, "decide")] * chance.choice([1, 1, 2, 3])
    if kind < 0.42:
        return [Ask(event, "record")] * chance.choice([1, 2])
    asked_us = chance.choice([0, 0, 0, 2 * SECOND_US, 300 * SECOND_US, 2 * HOUR_US])
    steps: list[Action] = [Ask(event, "reserve", asked_us)] * chance.choice([1, 1, 2])
    if chance.random() < 0.2:
        by_us = chance.choice([SECOND_US, 60 * SECOND_US, 299 * SECOND_US, HOUR_US])
        steps += [End(event.event_id, "extend", by_us=by_us)] * chance.choice([1, 2])
    for _ in range(chance.choice([0, 1, 1, 1, 2])):
        steps += [_end(chance, event.event_id)] * chance.choice([1, 1, 2])
    if chance.random() < 0.2:
        steps.append(Ask(event, "reserve", asked_us))
    return steps


def _end(chance: random.Random, event_id: str) -> End:
    kind = chance.random()
    if kind < 0.25:
        return End(event_id, "release")
    if kind < 0.6:
        return End(event_id, "commit", share=chance.choice([0, 0.5, 1]))
    if kind < 0.85:
        return End(event_id, "commit", more=chance.choice([1, 7, 30]))
    return End(event_id, "commit", other_meter=True)


def _operator(chance: random.Random) -> list[Action]:
    steps: list[Action] = []
    version = 1
    for _ in range(chance.randint(1, 3)):
        version += 1
        kind = chance.random()
        if kind < 0.3:
            steps.append(_contract(chance, version))
        elif kind < 0.55:
            steps.append(_overrides(chance, version))
        elif kind < 0.7:
            steps.append(External(chance.choice(_EXTERNAL), chance.randint(0, 40), chance.randint(1, 100)))
        else:
            steps.append(Housekeeping(chance.choice(["sweep", "sweep", "refresh"])))
    if chance.random() < 0.2:  # once: what was allowed is still remembered then
        steps.insert(chance.randint(0, len(steps)), Housekeeping("forget"))
    return steps


def _contract(chance: random.Random, version: int) -> Contract:
    status = chance.choice(["active"] * 11 + ["suspended"])
    granted = chance.choice([None, chance.randint(0, 120), chance.randint(0, 120), 400])
    grants = chance.choice([0, 0, 0, *range(len(GRANTS))])
    return Contract(chance.randrange(len(POLICIES)), version, granted, grants, status)


def _overrides(chance: random.Random, version: int) -> OverrideSet:
    until_us = START_US + chance.choice([HOUR_US // 2, 4 * HOUR_US])
    made: list[Override] = []
    if chance.random() < 0.8:
        bypass = chance.choice([("*",), ("*",), ("hour", "day"), ("wallet", "open", "rate")])
        made.append(Override(f"pass-{version}", "let_pass", until_us, chance.choice([1, 12, 20, 30]), bypass))
    if chance.random() < 0.2:
        made.append(Override(f"stop-{version}", "stop", until_us))
    return OverrideSet(version, tuple(made))
