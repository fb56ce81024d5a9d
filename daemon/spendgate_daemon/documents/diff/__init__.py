"""Two documents: what changed in meaning, and whether it lets less through or more."""

from __future__ import annotations

from spendgate_daemon.documents.diff.changes import Change, diff_documents, diff_files, render_diff

__all__ = ["Change", "diff_documents", "diff_files", "render_diff"]
