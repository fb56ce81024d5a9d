"""Load as applications send it: a public trace or a live profile, over HTTP, with retries that neither lose nor double."""

from __future__ import annotations

from spendgate_daemon.traffic.command import run_traffic_command
from spendgate_daemon.traffic.events import TrafficEvent
from spendgate_daemon.traffic.options import TrafficError, TrafficOptions
from spendgate_daemon.traffic.replay import TrafficRun, run_traffic
from spendgate_daemon.traffic.summary import TrafficSummary
from spendgate_daemon.traffic.trace import TraceError, TraceRow, read_trace

__all__ = [
    "TraceError",
    "TraceRow",
    "TrafficError",
    "TrafficEvent",
    "TrafficOptions",
    "TrafficRun",
    "TrafficSummary",
    "read_trace",
    "run_traffic",
    "run_traffic_command",
]
