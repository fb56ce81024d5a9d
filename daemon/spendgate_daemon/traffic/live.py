"""The live profile: arrivals that follow the day and the week of each customer, without end.

Runs arrive as a Poisson process whose rate is renewed every few seconds of its own time; batches of runs come on top.
Pure: the start and the run id give one sequence.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from spendgate_daemon.demo.profile import (
    BURST_RUNS,
    BURST_SECONDS,
    Profile,
    bursts_per_hour,
    draw_poisson,
    draw_run,
    runs_per_hour,
)
from spendgate_daemon.traffic.events import TrafficEvent, traffic_event

STEP_SECONDS: Final = 5.0
FIRST_BURST_SECONDS: Final = 20.0
"""Each customer that works in batches starts one soon after the start, so that a demo need not be waited for."""


def live_events(run_id: str, profiles: Sequence[Profile], start: datetime) -> Iterator[TrafficEvent]:
    """Events in the order they are due, for ever."""
    draws = random.Random(f"live/{run_id}")  # noqa: S311  (load, not a secret)
    row = 0
    due: list[tuple[float, int]] = []
    bursting = [index for index, profile in enumerate(profiles) if profile.bursts]
    for order, index in enumerate(bursting, 1):
        _add_burst(due, index, FIRST_BURST_SECONDS * order, draws)
    step = 0
    while True:
        begins = step * STEP_SECONDS
        step += 1
        at = start + timedelta(seconds=begins)
        hours = STEP_SECONDS / 3600
        for index, profile in enumerate(profiles):
            for _ in range(draw_poisson(runs_per_hour(profile, at) * hours, draws)):
                heapq.heappush(due, (begins + draws.random() * STEP_SECONDS, index))
            for _ in range(draw_poisson(bursts_per_hour(profile, at) * hours, draws)):
                _add_burst(due, index, begins, draws)
        while due and due[0][0] < begins + STEP_SECONDS:
            at_seconds, index = heapq.heappop(due)
            run = draw_run(profiles[index], draws)
            yield traffic_event(run_id, row, at_seconds, profiles[index].customer_id, run)
            row += 1


def _add_burst(due: list[tuple[float, int]], index: int, at_seconds: float, draws: random.Random) -> None:
    for _ in range(BURST_RUNS):
        heapq.heappush(due, (at_seconds + draws.random() * BURST_SECONDS, index))
