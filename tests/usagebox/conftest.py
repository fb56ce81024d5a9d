"""A recorded UsageBox over real HTTP, and clients of it."""

from __future__ import annotations

import pytest

from recorded_usagebox import RecordedUsageBox
from serving import serve
from spendgate_daemon.usagebox import UsageBox


@pytest.fixture
def recorded():
    return RecordedUsageBox()


@pytest.fixture
def client_of(recorded, run):
    """A client of the recorded one; arguments as for UsageBox."""
    made = []
    with serve(recorded) as url:

        def make(**options):
            made.append(UsageBox(url, "ubx_key", **options))
            return made[-1]

        yield make
        for client in made:
            run(client.aclose())
