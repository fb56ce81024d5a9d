"""`spendgate policy check FILE`: what a document says, or everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spendgate_daemon.documents.describe import describe
from spendgate_daemon.documents.errors import DocumentError
from spendgate_daemon.documents.load import load_file

GOOD: Final = 0
FAULTY: Final = 1
UNREADABLE: Final = 2


def check_file(path: Path | str) -> tuple[str, int]:
    """A report for people, and the exit code: 0 the document is good, 1 it has faults, 2 it can't be read."""
    try:
        document = load_file(path)
    except OSError as exc:
        return f"{path}: {exc.strerror or exc}", UNREADABLE
    except DocumentError as exc:
        return str(exc), FAULTY
    return f"{path}: good\n{describe(document)}", GOOD
