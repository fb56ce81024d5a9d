"""What a test needs and this machine may not have."""

from __future__ import annotations

import os

import pytest


def require(what: str, *, found: bool) -> None:
    """Skip because `what` is not on this machine; fail instead where everything is required."""
    if found:
        return
    if os.environ.get("SPENDGATE_TEST_REQUIRE") == "all":
        pytest.fail(f"{what} is required here (SPENDGATE_TEST_REQUIRE=all) and was not found")
    pytest.skip(f"{what} is not on this machine")
