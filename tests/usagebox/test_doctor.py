"""What `doctor` says of UsageBox."""

from __future__ import annotations

import pytest

from recorded_usagebox import RecordedUsageBox, Reply
from serving import serve
from spendgate_daemon.doctor import examine
from spendgate_daemon.sandbox import create_sandbox
from spendgate_daemon.settings import Settings


def told(run, tmp_path, url, **settings):
    findings = run(examine(Settings(home=tmp_path, usagebox_url=url, **settings)))
    return {(finding.grade, finding.text) for finding in findings if finding.part == "UsageBox"}


@pytest.mark.parametrize(("dialect", "shape"), [("hosted", "groups"), ("usagedb", "lines")])
def test_it_names_the_dialect_and_how_it_was_found(run, tmp_path, dialect, shape):
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None, dialect=dialect)) as url:
        found = told(run, tmp_path, url)
    host = url.removeprefix("http://")
    assert ("ok", f"a UsageBox at {host}, spoken to as {dialect}, told by the shape of its totals ({shape})") in found


def test_a_stated_dialect_is_told_as_such(run, tmp_path):
    with serve(create_sandbox(tmp_path / "book.sqlite", key=None)) as url:
        found = told(run, tmp_path, url, usagebox_dialect="hosted")
    assert any(text.endswith("spoken to as hosted, told by the configuration") for _, text in found)


def test_a_server_that_is_no_usagebox_is_a_fault_that_says_whether_anybody_is_there(run, tmp_path):
    recorded = RecordedUsageBox()
    recorded.on("/health", Reply("OK"))
    with serve(recorded) as url:
        [(grade, text)] = told(run, tmp_path, url)
    assert grade == "fault"
    assert "no usage is sent" in text
    assert text.endswith("somebody answers at /health")
