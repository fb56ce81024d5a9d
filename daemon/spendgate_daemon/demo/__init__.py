"""The demo: 24 customers on four plans with a month of history, put into the sandbox as a person and an edge would."""

from __future__ import annotations

from spendgate_daemon.demo.customers import DEMO_CUSTOMERS, DemoCustomer
from spendgate_daemon.demo.profile import Profile
from spendgate_daemon.demo.seed import DemoError, DemoReport, seed_demo

__all__ = ["DEMO_CUSTOMERS", "DemoCustomer", "DemoError", "DemoReport", "Profile", "seed_demo"]
