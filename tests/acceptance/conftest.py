"""One product for all tests here: each uses customers of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance_product import TRACE, Product
from requirements import require


@pytest.fixture(scope="session")
def product(tmp_path_factory):
    running = Product(tmp_path_factory.mktemp("product") / "home")
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="session")
def trace() -> Path:
    require("the trace of real requests beside the repository", found=TRACE.exists())
    return TRACE
