"""`spendgate policy check FILE`: what a document says, or everything that is wrong with it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from spendgate.limits import counter_field
from spendgate_daemon.documents.compile import compile_policy
from spendgate_daemon.documents.errors import DocumentError
from spendgate_daemon.documents.load import load_document


def check_file(path: Path, now: datetime) -> tuple[str, bool]:
    """A report for people, and whether the document is good. Raises nothing but OSError."""
    try:
        document = load_document(path.read_bytes(), str(path))
    except DocumentError as exc:
        return str(exc), False
    lines = [f"{path}: good, digest {document.digest}, {len(document.meters)} meters, {len(document.plans)} plans"]
    for plan in document.plans:
        policy = compile_policy(document, plan, {}, now=now)
        limits = ", ".join(counter_field(limit) for limit in policy.limits)
        lines.append(f"  {plan}: {limits or 'no limits'}; models {', '.join(policy.models or ('any',))}")
    return "\n".join(lines), True
