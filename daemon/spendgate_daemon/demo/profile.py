"""How a customer uses AI: how many runs at which hour, with which models, how large.

History and live traffic draw from the same profile, so that a chart does not break where one becomes the other. Every
draw is from a generator that the caller seeds: the same seed gives the same month.
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from typing import Final

import msgspec

BURST_RUNS: Final = 90
BURST_SECONDS: Final = 12.0
BURSTS_PER_HOUR: Final = 8.0

MIN_CONTEXT_TOKENS: Final = 16
MAX_CONTEXT_TOKENS: Final = 180_000
MAX_GENERATED_TOKENS: Final = 8_000

# Medians and spreads as in the public traces of conversations with language models.
_CONTEXT_MEDIAN, _CONTEXT_SIGMA = 1020.0, 1.0
_GENERATED_MEDIAN, _GENERATED_SIGMA = 129.0, 0.95

CONTEXT_MEAN: Final = _CONTEXT_MEDIAN * math.exp(_CONTEXT_SIGMA**2 / 2)
GENERATED_MEAN: Final = _GENERATED_MEDIAN * math.exp(_GENERATED_SIGMA**2 / 2)
GPU_SHARE: Final = 0.2
GPU_SECONDS_MEAN: Final = 30.0

# Of a working day's local hours, relative to their average.
_DAY: Final = (
    *(0.45, 0.35, 0.3, 0.28, 0.3, 0.4, 0.6, 0.9),
    *(1.25, 1.5, 1.6, 1.55, 1.4, 1.5, 1.6, 1.6),
    *(1.5, 1.4, 1.2, 1.05, 0.95, 0.85, 0.72, 0.55),
)
_WEEK: Final = (1.1, 1.2, 1.2, 1.15, 1.05, 0.7, 0.6)


class Profile(msgspec.Struct, frozen=True):
    """`runs_per_hour` is the average over a week, without bursts; `models` maps models to their share; `bursts` is
    somebody who starts a batch of runs at once a few times an hour; `gpu` uses GPU seconds besides; `sleeps`: no runs
    at all between 22:00 and 06:00 local time."""

    customer_id: str
    runs_per_hour: float
    models: dict[str, float]
    utc_offset_hours: int = 0
    bursts: bool = False
    gpu: bool = False
    sleeps: bool = False


class Run(msgspec.Struct, frozen=True):
    """One run of an agent."""

    model: str
    context_tokens: int
    generated_tokens: int
    gpu_seconds: int


def runs_per_hour(profile: Profile, at: datetime) -> float:
    """The rate of runs at an instant, without bursts."""
    local = at + timedelta(hours=profile.utc_offset_hours)
    if profile.sleeps and not 6 <= local.hour < 22:
        return 0.0
    following = _DAY[(local.hour + 1) % 24]
    day = _DAY[local.hour] + (following - _DAY[local.hour]) * local.minute / 60
    return profile.runs_per_hour * day * _WEEK[local.weekday()]


def bursts_per_hour(profile: Profile, at: datetime) -> float:
    """How often a batch starts; it follows the day as everything does."""
    if not profile.bursts:
        return 0.0
    return BURSTS_PER_HOUR * runs_per_hour(profile, at) / profile.runs_per_hour


def draw_run(profile: Profile, draws: random.Random) -> Run:
    """One run, with a context and an answer of log-normal length."""
    context = round(draws.lognormvariate(math.log(_CONTEXT_MEDIAN), _CONTEXT_SIGMA))
    generated = round(draws.lognormvariate(math.log(_GENERATED_MEDIAN), _GENERATED_SIGMA))
    gpu = profile.gpu and draws.random() < GPU_SHARE
    return Run(
        model=draw_model(profile, draws),
        context_tokens=min(max(context, MIN_CONTEXT_TOKENS), MAX_CONTEXT_TOKENS),
        generated_tokens=min(max(generated, 1), MAX_GENERATED_TOKENS),
        gpu_seconds=1 + round(draws.expovariate(1 / GPU_SECONDS_MEAN)) if gpu else 0,
    )


def draw_model(profile: Profile, draws: random.Random) -> str:
    return draws.choices(list(profile.models), list(profile.models.values()))[0]


def draw_poisson(mean: float, draws: random.Random) -> int:
    """A number of independent arrivals; by the normal approximation where that can't be told apart."""
    if mean > 50:
        return max(0, round(draws.gauss(mean, math.sqrt(mean))))
    arrivals, product = 0, draws.random()
    threshold = math.exp(-mean)
    while product > threshold:
        arrivals += 1
        product *= draws.random()
    return arrivals
