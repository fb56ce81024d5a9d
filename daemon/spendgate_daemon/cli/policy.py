"""`spendgate policy`."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from spendgate_daemon.documents import check_file

app = App(name="policy", help="Work with policy documents.")


@app.command
def check(file: Path) -> int:
    """Check a policy document: every fault with its line and field. Exit code 0 fine, 1 faults, 2 can't be read.

    Parameters
    ----------
    file
        The document.
    """
    report, code = check_file(file)
    print(report)
    return code
