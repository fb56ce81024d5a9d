"""Patterns, a literal text or a prefix with one final `*`: which meters one names, and how two lie to each other."""

from __future__ import annotations

from spendgate.limits.check import matches
from spendgate_daemon.documents.document import PolicyDocument


def meters_of(document: PolicyDocument, pattern: str) -> tuple[str, ...]:
    """The document's meters that a pattern names, sorted: the order of keys in a document means nothing."""
    return tuple(meter for meter in sorted(document.meters) if matches(pattern, meter))


def covers(wide: str, narrow: str) -> bool:
    """Whether `wide` matches every text that `narrow` matches."""
    if narrow.endswith("*"):
        return wide.endswith("*") and narrow[:-1].startswith(wide[:-1])
    return matches(wide, narrow)


def overlap(one: str, other: str) -> bool:
    """Whether some text matches both."""
    if one.endswith("*") and other.endswith("*"):
        return covers(one, other) or covers(other, one)
    return matches(one, other) if one.endswith("*") else matches(other, one)
