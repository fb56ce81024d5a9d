"""`spendgate doctor`."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.table import Table

from spendgate_daemon.cli.starting import HomeOption, read_settings
from spendgate_daemon.doctor import Finding, examine

_LOOKS = {"ok": "[green]✓ ok[/]", "warning": "[yellow]▲ warning[/]", "fault": "[red]■ fault[/]"}


def command(*, home: HomeOption = None) -> int:
    """Check Redis, store, UsageBox, Kafka, policy document and ports against the real servers. Exit code 1: there is a fault."""
    findings: list[Finding] = asyncio.run(examine(read_settings(home, log_level="warning")))
    table = Table("part", "", "what was found", show_lines=False)
    for finding in findings:
        table.add_row(finding.part, _LOOKS[finding.grade], finding.text)
    Console().print(table)
    return 1 if any(finding.grade == "fault" for finding in findings) else 0
