"""One `spendgate up` for all tests of this folder that only look."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import httpx
import pytest

from upping import Up


@pytest.fixture(scope="session")
def stack(tmp_path_factory) -> Iterator[Up]:
    """One for all tests that only look."""
    running = Up(tmp_path_factory.mktemp("stack"))
    try:
        running.wait_until_ready()
        yield running
        running.end(signal.SIGTERM)
    finally:
        running.close()


@pytest.fixture
def addresses(stack) -> dict[str, str]:
    return json.loads((stack.home / "addresses.json").read_text())


@pytest.fixture
def http(addresses, stack) -> Iterator[httpx.Client]:
    """A client of the API with the admin key."""
    headers = {"authorization": f"Bearer {stack.keys()['SPENDGATE_ADMIN_KEY']}"}
    with httpx.Client(base_url=addresses["api_url"], headers=headers) as client:
        yield client
