"""`spendgate policy`."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from spendgate_daemon.documents import check_file, diff_files

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


@app.command
def diff(old: Path, new: Path) -> int:
    """Tell what changed in meaning between two policy documents, and what got tighter or looser. Exit code 0 nothing, 1
    something, 2 a document can't be read or has faults.

    Parameters
    ----------
    old
        The document that is in force.
    new
        The one that is to replace it.
    """
    report, code = diff_files(old, new)
    print(report)
    return code
