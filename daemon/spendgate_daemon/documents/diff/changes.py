"""Two documents: what changed in meaning, and whether it lets less through or more.

Comments, descriptions, the order of keys and other words for the same thing (`60m` for `1h`, a pattern that names the same
meters) are no change. A plan or a limit is the same one while it keeps its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from spendgate_daemon.documents.describe import describe_limit
from spendgate_daemon.documents.diff.limits import Version, limit_differences
from spendgate_daemon.documents.diff.plans import document_differences, plan_differences
from spendgate_daemon.documents.diff.values import Difference, Differences, Effect
from spendgate_daemon.documents.document import Plan, PolicyDocument, Rule
from spendgate_daemon.documents.errors import DocumentError
from spendgate_daemon.documents.load import load_file

SAME: Final = 0
CHANGED: Final = 1
UNREADABLE: Final = 2

Kind = Literal["added", "removed", "changed"]


class Change(msgspec.Struct, frozen=True):
    """`plan` and `limit` None: it is the document's, or the plan's. `field` empty: the whole plan or limit. `old` and
    `new` are in words, empty where there was, or is, nothing."""

    kind: Kind
    plan: str | None
    limit: str | None
    field: str
    old: str
    new: str
    effect: Effect

    def __str__(self) -> str:
        subject = "document" if self.plan is None else f"plan {self.plan}"
        subject += f", limit {self.limit}" if self.limit is not None else ""
        effect = f" ({self.effect})" if self.effect != "neither" else ""
        if self.kind == "changed":
            return f"{subject}: {self.field} {self.old or 'none'} -> {self.new or 'none'}{effect}"
        subject += f": {self.field}" if self.field else ""
        value = self.new if self.kind == "added" else self.old
        return f"{subject} {self.kind}{f': {value}' if value else ''}{effect}"


def diff_documents(old: PolicyDocument, new: PolicyDocument) -> list[Change]:
    """All changes in meaning: the document's, then those of each plan and of each of its limits, by name. Empty for two
    documents that say the same."""
    changes = list(_changes(None, None, document_differences(old, new)))
    for name in sorted({*old.plans, *new.plans}):
        before, after = old.plans.get(name), new.plans.get(name)
        if before is None or after is None:
            changes.append(Change("added" if before is None else "removed", name, None, "", "", "", "neither"))
        else:
            changes += _changes(name, None, plan_differences(before, after))
            changes += _limit_changes(name, old, before, new, after)
    return changes


def render_diff(changes: Sequence[Change]) -> str:
    """A line for each change, and how many there are; a sentence when there is none."""
    if not changes:
        return "no change in meaning"
    effects = [change.effect for change in changes]
    counted = [f"{effects.count(effect)} {effect}" for effect in ("tighter", "looser") if effect in effects]
    total = f"{len(changes)} {'change' if len(changes) == 1 else 'changes'}"
    return "\n".join([*map(str, changes), f"{total}{': ' if counted else ''}{', '.join(counted)}"])


def diff_files(old: Path | str, new: Path | str) -> tuple[str, int]:
    """A report for people, and the exit code: 0 nothing changed in meaning, 1 something did, 2 a document can't be read
    or has faults."""
    documents = []
    for path in (old, new):
        try:
            documents.append(load_file(path))
        except OSError as exc:
            return f"{path}: {exc.strerror or exc}", UNREADABLE
        except DocumentError as exc:
            return str(exc), UNREADABLE
    changes = diff_documents(*documents)
    return render_diff(changes), CHANGED if changes else SAME


def _limit_changes(name: str, old: PolicyDocument, before: Plan, new: PolicyDocument, after: Plan) -> Iterator[Change]:
    was, now = _by_id(before), _by_id(after)
    for limit_id in sorted({*was, *now}):
        rule, other = was.get(limit_id), now.get(limit_id)
        if rule is not None and other is not None and type(rule) is type(other):
            versions = Version(old, before, rule), Version(new, after, other)
            yield from _changes(name, limit_id, limit_differences(*versions))
            continue
        if rule is not None:
            yield Change("removed", name, limit_id, "", describe_limit(rule), "", _presence(rule, "looser"))
        if other is not None:
            yield Change("added", name, limit_id, "", "", describe_limit(other), _presence(other, "tighter"))


def _changes(plan: str | None, limit: str | None, found: Differences) -> Iterator[Change]:
    for each in found:
        yield Change(_kind(each), plan, limit, each.field, each.old, each.new, each.effect)


def _kind(found: Difference) -> Kind:
    if not found.old:
        return "added"
    return "changed" if found.new else "removed"


def _presence(rule: Rule, effect: Effect) -> Effect:
    return effect if rule.mode == "enforce" else "neither"


def _by_id(plan: Plan) -> dict[str, Rule]:
    return {rule.id: rule for rule in plan.limits}
